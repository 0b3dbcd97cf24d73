"""Rows per second of answering dev questions: the classical way against ours, in turns, on the CPU.

    python benchmarks/score_throughput.py [--quick] [--json FILE] [--layers N] [--hidden N] …

(a) classical: one row at a time, transformers' ``generate`` with sampling (top_p 0.7, temperature 0.95) and
    KV cache, up to 512 new tokens, as ptuning's evaluation of ChatGLM-6B samples;
(b) plain batches of 64: transformers' greedy ``generate`` on length-sorted, left-padded batches;
(c) ours: :func:`glmjobs.generation.decoder.generate`, batch size found by itself.

All three answer prompts of the same list with the same model: ChatGLM's architecture and vocabulary, 4
layers, seeded random weights, float32. A random model never stops, so each row is given its answer's length
beforehand: seeded, BELLE-like lengths (log-normal, mean about 75 tokens, at most 512), the same for all
three. (a) and (c) stop a row at its length; in (b) a batch goes on until its longest row is done, as it does
where rows end by ``<eop>``. (a) is timed on rows taken evenly from the list sorted by answer length, so that
its rows are as long as the others'; its rows don't depend on each other. The ratio is rows/s of (c) over
rows/s of (a), by total times over all rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from glmjobs.generation.decoder import Engine, generate
from glmjobs.models import ChatGLMConfig, ChatGLMForCausalLM

SEED = 0
PLAIN_BATCH = 64
MAX_NEW_TOKENS = 512


def belle_like(rng: random.Random, mean: float, sigma: float, most: int) -> int:
    """A length in tokens, log-normal with this mean."""
    return max(4, min(most, round(rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma))))


def make_model(layers: int, hidden: int, vocabulary: int) -> Any:
    """A ChatGLM with seeded random weights in float32; its special ids are the last ones."""
    torch.manual_seed(SEED)
    config = ChatGLMConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_layers=layers, num_attention_heads=hidden // 64 or 1,
        bos_token_id=vocabulary - 4, eos_token_id=vocabulary - 3, mask_token_id=vocabulary - 2,
        gmask_token_id=vocabulary - 1, pad_token_id=3,
    )  # fmt: skip
    model = ChatGLMForCausalLM(config).eval()
    model.generation_config.eos_token_id = None  # lengths are given
    model.generation_config.pad_token_id = 3
    return model


def make_rows(count: int, model: Any) -> list[tuple[list[int], int]]:
    """``(prompt, tokens to generate)`` per row, in random order."""
    rng = random.Random(SEED)
    frame = [model.config.gmask_token_id, model.config.bos_token_id]
    rows = []
    for _ in range(count):
        source = [
            rng.randrange(5, model.config.vocab_size - 8) for _ in range(belle_like(rng, 65, 0.45, 300))
        ]
        rows.append((source + frame, belle_like(rng, 75, 0.6, MAX_NEW_TOKENS)))
    return rows


def classical(model: Any, rows: list[tuple[list[int], int]]) -> int:
    """One row at a time, sampled. Returns tokens made."""
    torch.manual_seed(SEED)
    made = 0
    for prompt, length in rows:
        ids = torch.tensor([prompt])
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, top_p=0.7, temperature=0.95, top_k=0,
            max_new_tokens=length,
        )  # fmt: skip
        made += out.shape[1] - len(prompt)
    return made


def plain_batches(model: Any, rows: list[tuple[list[int], int]]) -> int:
    """transformers' greedy ``generate`` on sorted batches of 64. Returns useful tokens made."""
    rows = sorted(rows, key=lambda row: len(row[0]))
    for start in range(0, len(rows), PLAIN_BATCH):
        batch = rows[start : start + PLAIN_BATCH]
        width = max(len(prompt) for prompt, _ in batch)
        ids = torch.tensor([[3] * (width - len(prompt)) + prompt for prompt, _ in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in batch])
        model.generate(
            ids, attention_mask=mask, do_sample=False, max_new_tokens=max(length for _, length in batch)
        )
    return sum(length for _, length in rows)


def ours(engine: Engine, rows: list[tuple[list[int], int]], batch_size: Any, refill: bool = True) -> int:
    """Continuous greedy decoding. Returns tokens made."""
    lengths = [length for _, length in rows]
    results = list(generate(engine, [prompt for prompt, _ in rows], lengths, batch_size, refill=refill))
    assert sorted(result.index for result in results) == list(range(len(rows)))
    return sum(len(result.tokens) for result in results)


Rows = list[tuple[list[int], int]]
Way = Callable[[Any, Rows], int]


def spread(rows: Rows, count: int, turn: int, turns: int) -> Rows:
    """``count`` rows, evenly from the list sorted by answer length; other ones each turn."""
    ordered = sorted(rows, key=lambda row: row[1])
    return [ordered[int((i + (turn + 0.5) / turns) * len(ordered) / count)] for i in range(count)]


def main() -> None:
    """Run and print; see the module's text."""
    parser = argparse.ArgumentParser(description="rows per second of answering: classical against ours")
    parser.add_argument("--quick", action="store_true", help="fewer rows, without (b): under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help='write {"ratio": …, …}')
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=130528, help="ChatGLM-6B's by default")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; more suffer where others use the cores"
    )
    parser.add_argument("--rows", type=int, help="rows of (c); default 384, quick 160")
    parser.add_argument("--batch-size", default="auto", help="of (c)")
    parser.add_argument(
        "--no-refill", action="store_true", help="measure (c) without continuous refilling too"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    turns, few = (1, 6) if args.quick else (3, 8)
    model = make_model(args.layers, args.hidden, args.vocabulary)
    engine = Engine(make_model(args.layers, args.hidden, args.vocabulary), [], pad_id=3)
    rows = make_rows(args.rows or (160 if args.quick else 384), model)
    size = args.batch_size if args.batch_size == "auto" else int(args.batch_size)
    ours(engine, rows[:8], 4)  # warm up
    classical(model, [(rows[0][0], 4)])

    ways: dict[str, tuple[Way, Callable[[int], Rows]]] = {
        "(a) classical: one by one, sampled": (classical, lambda turn: spread(rows, few, turn, turns)),
        f"(b) plain batches of {PLAIN_BATCH}, greedy": (
            plain_batches, lambda turn: spread(rows, PLAIN_BATCH, turn, turns)
        ),
        "(c) ours: continuous, greedy": (lambda m, r: ours(engine, r, size), lambda turn: rows),
    }  # fmt: skip
    if args.quick:
        ways = {name: way for name, way in ways.items() if not name.startswith("(b)")}
    if args.no_refill:
        ways["(c') ours without refilling"] = (
            lambda m, r: ours(engine, r, size, refill=False),
            lambda turn: rows,
        )
    totals = {name: [0.0, 0.0, 0.0] for name in ways}
    for turn in range(turns):
        for name, (way, choose) in ways.items():
            chosen = choose(turn)
            start = time.perf_counter()
            made = way(model, chosen)
            seconds = time.perf_counter() - start
            totals[name] = [a + b for a, b in zip(totals[name], (len(chosen), seconds, made), strict=True)]
    figures = {
        name: {
            "rows": count, "seconds": seconds, "rows_per_s": count / seconds, "tokens_per_s": made / seconds,
            "mean_tokens": made / count,
        }
        for name, (count, seconds, made) in totals.items()
    }  # fmt: skip
    report(figures, model, args)


def report(figures: dict[str, dict[str, float]], model: Any, args: argparse.Namespace) -> None:
    """Print the table; write the JSON file."""
    from rich.console import Console
    from rich.table import Table

    base, mine = (next(name for name in figures if name.startswith(way)) for way in ("(a)", "(c)"))
    table = Table(
        title=f"{args.layers} layers, hidden {args.hidden}, vocabulary {args.vocabulary}, float32, "
        f"{torch.get_num_threads()} threads, seed {SEED}"
    )
    for column in (
        "",
        "rows",
        "mean tokens",
        "seconds",
        "rows/s",
        "tokens/s",
        "rows/s ratio",
        "tokens/s ratio",
    ):
        table.add_column(column, justify="right" if column else "left")
    for name, row in figures.items():
        table.add_row(
            name, f"{row['rows']:.0f}", f"{row['mean_tokens']:.0f}", f"{row['seconds']:.1f}",
            f"{row['rows_per_s']:.2f}",
            f"{row['tokens_per_s']:.0f}", f"{row['rows_per_s'] / figures[base]['rows_per_s']:.1f}",
            f"{row['tokens_per_s'] / figures[base]['tokens_per_s']:.1f}",
        )  # fmt: skip
    Console(width=132).print(table)
    if args.json:
        document = {
            "ratio": figures[mine]["rows_per_s"] / figures[base]["rows_per_s"],
            "tokens_ratio": figures[mine]["tokens_per_s"] / figures[base]["tokens_per_s"],
            "threads": torch.get_num_threads(), "torch": torch.__version__, "seed": SEED,
            "layers": args.layers, "hidden": args.hidden, "vocabulary": args.vocabulary,
            "parameters": sum(p.numel() for p in model.parameters()), "ways": figures,
        }  # fmt: skip
        args.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
