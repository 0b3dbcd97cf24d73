"""Examples and real tokens a second of training: the classical recipe, ours, and length-grouped padding, in turns.

    python benchmarks/train_throughput.py [--quick] [--json FILE] [--layers 4] [--hidden 256] [--vocabulary 1200] …

(a) classical: every example padded to 1024 positions; the mask and the two positions of each row made by a Python loop
    that reads the row back to the host; attention by matrix products with the scores kept, filled, scaled and
    soft-maxed in float32; float32 logits of every position. The classical recipe's way, written anew from its
    description; weights and function are those of (b).
(b) ours: :mod:`glmjobs.data.packing`, :class:`glmjobs.data.collate.PackedCollator`, the model and its chunked loss, and
    gradient clipping (which (a) has not).
(c) padding to the longest of a batch, batches grouped by length (windows of 50 batches, as transformers' Trainer
    does it), with the model and the loss of (b).

All train one and the same model from the same weights on the same examples: ChatGLM's architecture, seeded random
weights, float32 on a CPU and bfloat16 on a GPU, an AdamW step for every 16 examples. Lengths are BELLE-like:
log-normal, 140 tokens a framed example on average. The vocabulary's default gives the output matrix the share of the
parameters that it has in ChatGLM-6B (9 %). Before timing, all must give the same loss. They are timed in turns; in
each round (b) and (c) train all examples and (a) the next few of them (``--classical``), since every row costs it the
same. (a) takes its 16 rows in micro-batches of 4, which fit beside other work; (a1) is the same one row at a time, its
fastest way on a CPU, where larger batches of scores fall out of the caches. The ratio is that of examples a second by
total wall-clock times; beside it stands the one by the process's CPU time, which other work disturbs less.

With a GPU the layers have ChatGLM-6B's shapes (hidden 4096, 32 heads, vocabulary 130,528; ``--layers`` of them), and
peak memory and the model FLOPs utilisation are printed:

    MFU = tokens/s * (6 N + 12 L H Q T) / peak

(Chowdhery et al. 2022, PaLM, appendix B), N: parameters that take part in products (the tied embedding counts once, as
output matrix), L layers, H heads, Q size of a head; tokens are real ones, and T, the length that a token attends over,
is that of its own example on average over tokens, sum(n^2) / sum(n), since packed examples don't see each other.
Recomputation does not count. Peaks are those of :mod:`hpc.health.gpu_peaks`; ``--peak-tflops`` for others.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glmjobs.data.collate import PackedCollator, PackedDataset, PaddedCollator
from glmjobs.data.packing import plan_epoch
from glmjobs.models import ChatGLMConfig, ChatGLMForCausalLM
from glmjobs.models.family import families
from glmjobs.training.mfu import Peak
from glmjobs.training.train_data import rows_for
from hpc.health.gpu_peaks import peak_tflops

SEED = 0
LENGTH = 1024  # positions of a classical row, and of a packed one
BATCH = 16  # examples an optimizer step


@dataclass(frozen=True)
class Examples:
    """Framed examples, as :class:`glmjobs.data.tokenised.Tokenised` gives them to a dataset."""

    ids: list[Any]
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Any:
        """Tokens of each: int64[n]."""
        return np.array([len(i) for i in self.ids], np.int64)

    def example(self, index: int) -> tuple[Any, Any]:
        """Ids and labels of one."""
        return self.ids[index], self.labels[index]

    def item(self, index: int) -> dict[str, Any]:
        """One example as a row of its own."""
        ids, labels = self.example(index)
        return {"input_ids": ids, "segment_ids": np.ones(len(ids), np.int32), "labels": labels}


def belle_like(count: int, config: ChatGLMConfig) -> Examples:
    """Examples ``question [gMASK] <sop> answer <eop>`` of random tokens, 140 on average, at most 1024."""
    rng = random.Random(SEED)

    def length(mean: float, sigma: float, most: int) -> int:
        return max(2, min(most, round(rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))

    made = Examples([], [])
    for _ in range(count):
        source = [rng.randrange(5, config.vocab_size - 8) for _ in range(length(62, 0.45, 511))]
        target = [rng.randrange(5, config.vocab_size - 8) for _ in range(length(75, 0.6, 510))]
        prompt = [*source, config.gmask_token_id, config.bos_token_id]
        answer = [*target, config.eos_token_id]
        made.ids.append(np.array(prompt + answer, np.int32))
        made.labels.append(np.array([-100] * len(prompt) + answer, np.int32))
    return made


def make_model(layers: int, hidden: int, vocabulary: int, device: str) -> Any:
    """A ChatGLM with seeded random weights, in training mode; its special ids are the last ones."""
    torch.manual_seed(SEED)
    config = ChatGLMConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_layers=layers, num_attention_heads=max(1, hidden // 128)
        if hidden >= 1024 else max(1, hidden // 64), inner_hidden_size=4 * hidden,
        bos_token_id=vocabulary - 4, eos_token_id=vocabulary - 3, mask_token_id=vocabulary - 2,
        gmask_token_id=vocabulary - 1, pad_token_id=3, tie_word_embeddings=True,
    )  # fmt: skip
    model = ChatGLMForCausalLM(config)
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32).train()


# ---------------------------------------------------------------- (a) the classical way


def classical_masks(input_ids: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Masks [B, 1, L, L] (True: hidden) and positions [B, 2, L], row by row on the host."""
    masks, positions = [], []
    for row in input_ids:
        tokens = row.tolist()
        context, mask_at = tokens.index(config.bos_token_id), tokens.index(config.gmask_token_id)
        visible = torch.tril(torch.ones(len(tokens), len(tokens), device=row.device))
        visible[:, :context] = 1
        masks.append(visible < 0.5)
        column = torch.arange(len(tokens), device=row.device)
        block = torch.cat([torch.zeros_like(column[:context]), column[: len(tokens) - context] + 1])
        place = column.clone()
        place[context:] = mask_at
        positions.append(torch.stack([place, block]))
    return torch.stack(masks).unsqueeze(1), torch.stack(positions)


def classical_rotary(states: Tensor, places: Tensor) -> Tensor:
    """One axis' half of the heads, turned: states [B, heads, L, D/2], places [B, L]."""
    width = states.shape[-1]
    inverse = (
        (1.0 / 10000 ** (torch.arange(0, width, 2, device=states.device).float() / width)).half().float()
    )
    angles = torch.outer(torch.arange(int(places.max()) + 1, device=states.device).float(), inverse)
    table = torch.cat([angles, angles], dim=-1)  # made for every layer, up to the largest position in use
    cos, sin = (F.embedding(places, t).unsqueeze(1).to(states.dtype) for t in (table.cos(), table.sin()))
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def classical_layer(
    layer: Any, number: int, hidden: Tensor, hidden_from: Tensor, positions: Tensor
) -> Tensor:
    """One block with its scores, probabilities and logits all kept."""
    normed = layer.input_layernorm(hidden)
    heads = layer.attention.heads
    projected = layer.attention.query_key_value(normed).unflatten(-1, (heads, -1)).transpose(1, 2)
    query, key, value = projected.chunk(3, dim=-1)
    turned = []
    for states in (query, key):
        one, two = states.chunk(2, dim=-1)
        turned.append(
            torch.cat([classical_rotary(one, positions[:, 0]), classical_rotary(two, positions[:, 1])], -1)
        )
    query, key = turned
    scale = float(number + 1)
    scores = torch.matmul(query / (math.sqrt(query.shape[-1]) * scale), key.transpose(-1, -2))
    if not bool((hidden_from == 0).all()):
        scores = scores.masked_fill(hidden_from, -10000.0)
    probabilities = F.softmax(scores.float() * scale, dim=-1).to(value.dtype)
    mixed = torch.matmul(probabilities, value).transpose(1, 2).flatten(2)
    out = normed * layer.alpha + layer.attention.dense(mixed)
    normed = layer.post_attention_layernorm(out)
    return normed * layer.alpha + layer.mlp(normed)


def classical_loss(model: Any, input_ids: Tensor, labels: Tensor) -> Tensor:
    """Sum of the targets' cross-entropies."""
    hidden_from, positions = classical_masks(input_ids, model.config)
    hidden = model.transformer.word_embeddings(input_ids)
    for number, layer in enumerate(model.transformer.layers):
        hidden = classical_layer(layer, number, hidden, hidden_from, positions)
    logits = F.linear(model.transformer.final_layernorm(hidden), model.lm_head.weight).float()
    shifted, wanted = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
    return F.cross_entropy(
        shifted.view(-1, shifted.shape[-1]), wanted.view(-1), ignore_index=-100, reduction="sum"
    )


# ---------------------------------------------------------------- the three ways as batches of 16 examples

Step = list[Callable[[], Tensor]]  # micro-batches: each gives the sum of its targets' cross-entropies


def on(device: str, batch: dict[str, Any]) -> dict[str, Any]:
    """The batch on a device; what isn't a tensor stays."""
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}


def classical_steps(model: Any, data: Examples, examples: range, micro: int, device: str) -> Iterator[Step]:
    """(a): 16 rows of 1024 a step, in micro-batches."""
    collate = PaddedCollator(pad_id=3, length=LENGTH)

    def work(start: int) -> Tensor:
        batch = on(
            device,
            collate([data.item(i % len(data)) for i in range(start, min(start + micro, examples.stop))]),
        )
        return classical_loss(model, batch["input_ids"], batch["labels"])

    for first in range(examples.start, examples.stop, BATCH):
        starts = range(first, min(first + BATCH, examples.stop), micro)
        yield [lambda s=start: work(s) for start in starts]  # type: ignore[misc]


def our_steps(model: Any, data: Examples, device: str) -> Iterator[Step]:
    """(b): packed rows, as many a step as hold 16 examples on average."""
    plan = plan_epoch(data.lengths, LENGTH, seed=SEED)
    rows, collate = PackedDataset(data, plan), PackedCollator(LENGTH, 3)  # type: ignore[arg-type]
    size = rows_for(BATCH, len(data), len(plan))

    def work(first: int) -> Tensor:
        batch = on(device, collate([rows[i] for i in range(first, min(first + size, len(plan)))]))
        return model(**batch, num_items_in_batch=1).loss  # type: ignore[no-any-return]

    for first in range(0, len(plan), size):
        yield [lambda f=first: work(f)]  # type: ignore[misc]


def grouped_steps(model: Any, data: Examples, device: str) -> Iterator[Step]:
    """(c): 16 examples a step, neighbours in length within windows of 50 batches, padded to the longest."""
    order = list(range(len(data)))
    random.Random(SEED).shuffle(order)
    window = 50 * BATCH
    groups = []
    for start in range(0, len(order), window):
        falling = sorted(order[start : start + window], key=lambda i: -len(data.ids[i]))
        groups += [falling[at : at + BATCH] for at in range(0, len(falling), BATCH)]
    random.Random(SEED).shuffle(groups)
    collate = PaddedCollator(pad_id=3, multiple=8)

    def work(group: list[int]) -> Tensor:
        batch = on(device, collate([data.item(i) for i in group]))
        return model(**batch, num_items_in_batch=1).loss  # type: ignore[no-any-return]

    for group in groups:
        yield [lambda g=group: work(g)]  # type: ignore[misc]


# ---------------------------------------------------------------- timing


def train(model: Any, steps: Iterator[Step], targets: int, *, clip: bool) -> None:
    """One pass: forward, backward and an AdamW step for each 16 examples."""
    fused = {"fused": True} if next(model.parameters()).is_cuda else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, **fused)
    for step in steps:
        for micro in step:
            (micro() / targets).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def timed(work: Callable[[], None], device: str) -> tuple[float, float, int]:
    """Seconds, CPU seconds of this process, and on a GPU the most bytes allocated."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started, started_cpu = time.perf_counter(), time.process_time()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    most = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return time.perf_counter() - started, time.process_time() - started_cpu, most


def check_equal(model: Any, device: str) -> float:
    """The three ways' losses on 16 examples; the largest relative difference.

    Raises:
        SystemExit: they differ: then their speeds say nothing.
    """
    data = belle_like(BATCH, model.config)
    sums = []
    with torch.no_grad():
        for steps in (
            classical_steps(model, data, range(BATCH), 4, device), our_steps(model, data, device),
            grouped_steps(model, data, device),
        ):  # fmt: skip
            sums.append(sum(float(micro()) for step in steps for micro in step))
    worst = max(abs(s / sums[0] - 1) for s in sums)
    if not worst < (2e-2 if device == "cuda" else 1e-4):  # bfloat16 has 8 bits
        raise SystemExit(f"error: the three ways give different losses: {sums}")
    return worst


def mfu(model: Any, data: Examples, tokens_per_s: float, peak_tflops: float) -> float:
    """PaLM's model FLOPs utilisation, see the module's docstring."""
    lengths = data.lengths
    family = next(f for f in families().values() if f.model_class() is type(model))
    attended = float((lengths**2).sum() / lengths.sum())
    flops = family.architecture(model.config.to_dict()).flops_per_token(attended)
    return Peak(peak_tflops * 1e12 / flops).mfu(tokens_per_s)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is printed, as one document."""
    device = args.device
    model = make_model(args.layers, args.hidden, args.vocabulary, device)
    difference = check_equal(model, device)
    data = belle_like(args.examples, model.config)
    lengths, few = data.lengths, args.classical
    ways: dict[str, Callable[[int], Iterator[Step]]] = {
        "classical": lambda turn: classical_steps(
            model, data, range(turn * few, (turn + 1) * few), args.micro, device
        ),
        "classical_single": lambda turn: classical_steps(
            model, data, range(turn * few, (turn + 1) * few), 1, device
        ),
        "ours": lambda turn: our_steps(model, data, device),
        "grouped": lambda turn: grouped_steps(model, data, device),
    }
    warm = belle_like(BATCH, model.config)  # allocator, kernels and caches, on other batches
    train(model, classical_steps(model, warm, range(args.micro), args.micro, device), 1000, clip=False)
    train(model, our_steps(model, warm, device), 1000, clip=True)
    train(model, grouped_steps(model, warm, device), 1000, clip=True)
    turns: dict[str, list[tuple[float, float, int]]] = {name: [] for name in ways}
    for turn in range(args.rounds):
        for name, steps in ways.items():
            clip = not name.startswith("classical")
            planned = steps(turn)
            turns[name].append(timed(lambda s=planned, c=clip: train(model, s, 1000, clip=c), device))  # type: ignore[misc]
    peak = args.peak_tflops or (peak_tflops(torch.cuda.get_device_name()) if device == "cuda" else None)
    found = {}
    for name, timings in turns.items():
        a_turn = few if name.startswith("classical") else len(data)
        chosen = (
            np.arange(few * args.rounds) % len(data) if name.startswith("classical") else np.arange(len(data))
        )
        tokens = float(lengths[chosen].mean()) * a_turn
        rates = [tokens / wall for wall, _, _ in timings]
        wall, cpu = sum(t[0] for t in timings), sum(t[1] for t in timings)
        found[name] = {
            "examples_per_s": a_turn * len(timings) / wall,
            "examples_per_cpu_s": a_turn * len(timings) / cpu,
            "tokens_per_s": tokens * len(timings) / wall,
            "tokens_per_s_range": [min(rates), max(rates)],
            "examples": a_turn * len(timings),
            "rounds": len(timings),
            "seconds": wall,
            "peak_memory_bytes": max(t[2] for t in timings) or None,
            "mfu": mfu(model, data, tokens * len(timings) / wall, peak) if peak else None,
        }

    def ratio(key: str, other: str) -> float:
        return float(found["ours"][key] / found[other][key])

    return {
        "ratio": ratio("examples_per_s", "classical"),
        "ratio_to_single": ratio("examples_per_s", "classical_single"),
        "ratio_to_grouped": ratio("examples_per_s", "grouped"),
        "ratio_by_cpu_time": ratio("examples_per_cpu_s", "classical"),
        "ratio_to_single_by_cpu_time": ratio("examples_per_cpu_s", "classical_single"),
        "ratio_to_grouped_by_cpu_time": ratio("examples_per_cpu_s", "grouped"),
        "ways": found,
        "loss_difference": difference,
        "mean_tokens": float(lengths.mean()),
        "fill": float(plan_epoch(lengths, LENGTH, seed=SEED).fill),
        "model": {"layers": args.layers, "hidden": args.hidden, "vocabulary": args.vocabulary},
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def show(document: dict[str, Any]) -> None:
    """The table."""
    from rich.console import Console
    from rich.table import Table

    model = document["model"]
    table = Table(
        title=f"training, {model['layers']} layers of {model['hidden']}, vocabulary {model['vocabulary']:,}; "
        f"{document['mean_tokens']:.0f} tokens an example; {document['device']}, torch {document['torch']}",
        title_justify="left",
    )
    table.add_column("")
    columns = ["examples/s", "real tokens/s", "slowest – fastest round", "against (a)"]
    gpu = document["ways"]["ours"]["peak_memory_bytes"] is not None
    for name in [*columns, *(["MFU", "peak memory"] if gpu else [])]:
        table.add_column(name, justify="right")
    labels = {
        "classical": f"(a) classical, padded to {LENGTH}",
        "classical_single": "(a1) the same, one row at a time",
        "ours": f"(b) ours, packed (fill {document['fill']:.1%})",
        "grouped": "(c) padded, grouped by length",
    }
    for name, label in labels.items():
        way = document["ways"][name]
        low, high = way["tokens_per_s_range"]
        ratio = way["examples_per_s"] / document["ways"]["classical"]["examples_per_s"]
        cells = [f"{way['examples_per_s']:.2f}", f"{way['tokens_per_s']:,.0f}", f"{low:,.0f} – {high:,.0f}"]
        more = [
            f"{way['mfu']:.1%}" if way["mfu"] else "-",
            f"{(way['peak_memory_bytes'] or 0) / 2**30:.1f} GiB",
        ]
        table.add_row(label, *cells, f"{ratio:.2f}×", *(more if gpu else []))
    console = Console(width=120)
    console.print(table)
    keys = ("ratio", "ratio_to_single", "ratio_to_grouped")
    wall = [f"{document[key]:.2f}×" for key in keys]
    cpu = [f"{document[key + '_by_cpu_time']:.2f}×" for key in keys]
    for by, figures in (("wall clock", wall), *((("CPU time", cpu),) if not gpu else ())):
        text = f"ours by {by}: {figures[0]} (a), {figures[1]} (a1), {figures[2]} (c)"
        console.print(text, highlight=False)
    console.print(f"losses equal to {document['loss_difference']:.0e}", highlight=False)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--quick", action="store_true", help="under a minute: fewer examples and rounds")
    p.add_argument("--json", metavar="FILE", help='write {"ratio": ours / classical, …}')
    p.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    p.add_argument("--layers", type=int, default=4)
    p.add_argument("--hidden", type=int, help="default: 256, on a GPU 4096")
    p.add_argument("--vocabulary", type=int, help="default: 1200, on a GPU 130528")
    p.add_argument("--examples", type=int, help="a round of (b) and (c); default: 256; --quick: 48")
    p.add_argument("--classical", type=int, help="a round of (a); default: 32; --quick: 4")
    p.add_argument("--micro", type=int, default=4, help="rows of (a)'s micro-batches")
    p.add_argument("--rounds", type=int, help="default: 6; --quick: 2")
    p.add_argument("--peak-tflops", type=float, help="of a GPU that isn't listed, dense bfloat16")
    return p


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the document."""
    args = parser().parse_args(argv)
    gpu = args.device == "cuda"
    args.hidden = args.hidden or (4096 if gpu else 256)
    args.vocabulary = args.vocabulary or (130528 if gpu else 1200)
    args.examples = args.examples or (48 if args.quick else 256)
    args.classical = args.classical or (4 if args.quick else 32)
    args.rounds = args.rounds or (2 if args.quick else 6)
    document = measure(args)
    show(document)
    if args.json:
        Path(args.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
