"""Does packing change what is learned? Dev loss after one epoch, packed against unpacked, at equal examples a step.

    python benchmarks/packing_loss.py [--quick] [--json FILE] [--family chatglm|glm4] [--rows 2000] [--seeds 5]

One small model from the same weights is trained for an epoch on the same word problems, three ways, over several
seeds:

packed    :func:`glmjobs.data.packing.plan_epoch`, as training does it
unpacked  one example a row, in as many steps: as many examples a step, within one, as packed on average
sorted    rows of examples of like length (next fit in falling order): what packing must not become

in two worlds: steps of one row (one GPU) and of ``--rows-a-step`` rows (many GPUs, or accumulation: the same sum). The
loss is that of 200 held-out rows, a target token. AdamW, linear decay, clipping at 1, float32.

It fails (exit 1) where the packed loss is above the unpacked one by more than 1 % and by more than twice the standard
error of their paired difference over the seeds. (Below 1 %: a small set ends in a few half-empty rows, each a step of
few examples where a step is one row.)
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from glmjobs.data import packing
from glmjobs.data.collate import PackedCollator, PackedDataset, PaddedCollator, target_tokens
from glmjobs.data.packing import PackingPlan
from glmjobs.data.synthetic import make_problems
from glmjobs.models import load_model, load_tokenizer
from glmjobs.models.family import family_for

HIDDEN, LAYERS, HEADS = 64, 2, 4
PACK_LENGTH = 512
DEV = 200
RATE = 1e-3
TOLERANCE = 0.01


class Examples:
    """Framed examples, as :class:`glmjobs.data.tokenised.Tokenised` gives them to a dataset."""

    def __init__(self, pairs: list[tuple[Any, Any]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def lengths(self) -> Any:
        """Tokens of each: int64[n]."""
        return np.array([len(ids) for ids, _ in self.pairs], np.int64)

    def example(self, index: int) -> tuple[Any, Any]:
        """Ids and labels of one."""
        return self.pairs[index]


def make_base(family: str, directory: Path) -> Path:
    """A small model of the family with its tokenizer, random weights."""
    texts = [f"{row['instruction']}\n{row['output']}" for row in make_problems(300, seed=0)]
    if family == "chatglm":
        from glmjobs.models.chatglm.tiny_model import make_model
        from glmjobs.models.chatglm.tiny_tokenizer import make_tokenizer

        ids = make_tokenizer(directory, iter(texts), vocab_size=600).config()
        make_model(
            directory, hidden_size=HIDDEN, layers=LAYERS, heads=HEADS, vocab_size=ids.pop("vocab_size"),
            max_positions=512, seed=0, ids=ids,
        )  # fmt: skip
        return directory
    from transformers import GlmConfig, GlmForCausalLM

    from tests.support.small_families import byte_level_tokenizer

    tokenizer = byte_level_tokenizer(
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>"],
        "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|endoftext|>",
    )
    tokenizer.save_pretrained(directory)
    torch.manual_seed(0)
    config = GlmConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=2 * HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=2, head_dim=HIDDEN // HEADS, max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=[tokenizer.eos_token_id],
    )  # fmt: skip
    GlmForCausalLM(config).save_pretrained(directory)
    return directory


def make_examples(base: Path, rows: int) -> Examples:
    """The word problems, framed."""
    tokenizer, family = load_tokenizer(base), family_for(base)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    framed = [
        family.frame(tokenizer, ids(row["instruction"]), ids(row["output"]))
        for row in make_problems(rows, seed=0)
    ]
    return Examples([(np.array(f.input_ids, np.int32), np.array(f.labels, np.int32)) for f in framed])


def sorted_plan(lengths: Any, seed: int) -> PackingPlan:
    """Rows of examples of like length, in random order."""
    rows: list[list[int]] = [[]]
    room = PACK_LENGTH
    for example in np.argsort(-lengths, kind="stable").tolist():
        if lengths[example] > room:
            rows.append([])
            room = PACK_LENGTH
        rows[-1].append(example)
        room -= int(lengths[example])
    arranged = [rows[i] for i in packing.permutation(len(rows), [seed])]
    offsets = np.cumsum([0, *(len(row) for row in arranged)]).astype(np.int64)
    return PackingPlan(PACK_LENGTH, np.concatenate(arranged).astype(np.int64), offsets, int(lengths.sum()))


def train(base: Path, dataset: PackedDataset, collate: Any, steps: int) -> Any:
    """The model after one epoch, its rows shared out evenly among so many steps."""
    model = load_model(base, dtype="float32").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for rows in np.array_split(np.arange(len(dataset)), steps):
        batch = collate([dataset[int(i)] for i in rows])
        model(**batch, num_items_in_batch=target_tokens(batch)).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model


def dev_loss(model: Any, dev: Examples, pad: int) -> float:
    """Cross-entropy a target token."""
    plan, collate = packing.plan_single(dev.lengths, PACK_LENGTH), PaddedCollator(pad)
    dataset = PackedDataset(dev, plan)  # type: ignore[arg-type]
    total = targets = 0.0
    with torch.no_grad():
        for start in range(0, len(dev), 20):
            batch = collate([dataset[i] for i in range(start, min(len(dev), start + 20))])
            count = float(target_tokens(batch))
            total, targets = total + float(model.eval()(**batch).loss) * count, targets + count
    return total / targets


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Dev losses by world and way, a value a seed."""
    with tempfile.TemporaryDirectory() as folder:
        base = make_base(args.family, Path(folder) / "base")
        examples = make_examples(base, args.rows + DEV)
        pad = int(load_tokenizer(base).pad_token_id)
        dev, rest = Examples(examples.pairs[:DEV]), Examples(examples.pairs[DEV:])
        worlds = {}
        for rows_a_step in dict.fromkeys((1, args.rows_a_step)):
            losses: dict[str, list[float]] = {"packed": [], "unpacked": [], "sorted": []}
            for seed in range(args.seeds):
                plan = packing.plan_epoch(rest.lengths, PACK_LENGTH, seed=seed)
                single = packing.plan_single(rest.lengths, PACK_LENGTH, seed=seed)
                steps = math.ceil(len(plan) / rows_a_step)
                row = PackedCollator(PACK_LENGTH, pad)
                ways: dict[str, tuple[PackingPlan, Callable[..., Any]]] = {
                    "packed": (plan, row),
                    "unpacked": (single, PaddedCollator(pad)),
                    "sorted": (sorted_plan(rest.lengths, seed), row),
                }
                for way, (order, collate) in ways.items():
                    model = train(base, PackedDataset(rest, order), collate, steps)  # type: ignore[arg-type]
                    losses[way].append(dev_loss(model, dev, pad))
            worlds[str(rows_a_step)] = {
                "examples_a_step": round(len(rest) / steps, 1),
                "fill": plan.fill,
                "losses": losses,
            }
    return {"family": args.family, "rows": args.rows, "torch": torch.__version__, "worlds": worlds}


def verdict(losses: dict[str, list[float]]) -> tuple[float, float]:
    """Mean of packed minus unpacked over the seeds, and its standard error."""
    differences = [p - u for p, u in zip(losses["packed"], losses["unpacked"], strict=True)]
    spread = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    return fmean(differences), spread


def show(document: dict[str, Any]) -> bool:
    """The table; whether packing is no worse."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"dev loss a target token after an epoch of {document['rows']:,} rows, {document['family']}, "
        f"torch {document['torch']}",
        title_justify="left",
    )
    columns = ("rows a step", "examples a step", "packed", "unpacked", "sorted", "packed - unpacked ± s.e.")
    for name in columns:
        table.add_column(name, justify="right")
    good = True
    for rows, world in document["worlds"].items():
        losses = world["losses"]
        cells = [f"{fmean(v):.3f} ({min(v):.3f}–{max(v):.3f})" for v in losses.values()]
        difference, error = verdict(losses)
        good = good and (difference <= 2 * error or difference <= TOLERANCE * fmean(losses["unpacked"]))
        table.add_row(rows, str(world["examples_a_step"]), *cells, f"{difference:+.3f} ± {error:.3f}")
    Console(width=130).print(table)
    return good


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the document; 1 where packing costs loss."""
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("--quick", action="store_true", help="under a minute: fewer rows, seeds and worlds")
    p.add_argument("--json", metavar="FILE", help='write {"ratio": unpacked / packed, …}')
    p.add_argument("--family", choices=("chatglm", "glm4"), default="chatglm")
    p.add_argument("--rows", type=int, help="training rows; default: 2000; --quick: 400")
    p.add_argument("--seeds", type=int, help="default: 5; --quick: 2")
    p.add_argument("--rows-a-step", type=int, help="of the large world; default: 8; --quick: 1")
    args = p.parse_args(argv)
    args.rows = args.rows or (400 if args.quick else 2000)
    args.seeds = args.seeds or (2 if args.quick else 5)
    args.rows_a_step = args.rows_a_step or (1 if args.quick else 8)
    torch.set_num_threads(1)
    document = measure(args)
    good = show(document)
    first = document["worlds"]["1"]["losses"]
    document["ratio"] = fmean(first["unpacked"]) / fmean(first["packed"])
    if args.json:
        Path(args.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
