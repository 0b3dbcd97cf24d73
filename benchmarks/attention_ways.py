"""Tokens a second of training on packed rows, for each way of computing their attention, in turns.

    python benchmarks/attention_ways.py [--quick] [--json FILE] [--family chatglm glm4] [--rounds 6] …

``whole`` is one call a layer under the block-diagonal mask of the whole rows: what transformers' own decoders do with
packed rows, and so what tools built on them do. The others are those of :mod:`glmjobs.models.common.attention`. All
train one model (seeded random weights, 4 layers; on a GPU the layers have the published models' shapes and bfloat16)
on the same rows of 1024 positions, packed from examples of BELLE-like lengths (140 tokens on average); their losses
must be equal first. Each round times a forward and backward pass in each way; the ratio is that of the totals.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glmjobs.data.collate import PackedCollator, PackedDataset
from glmjobs.data.packing import plan_epoch
from glmjobs.models.common.attention_ways import possible_ways, set_way
from glmjobs.models.family import families

if __package__:
    from benchmarks.train_throughput import Examples, belle_like, make_model, on
else:
    from train_throughput import Examples, belle_like, make_model, on

LENGTH = 1024


def make_glm4(layers: int, hidden: int, vocabulary: int, device: str) -> Any:
    """A GLM-4 with the published model's proportions, in training mode."""
    from transformers import GlmConfig

    torch.manual_seed(0)
    width = 128 if hidden >= 1024 else 32
    config = GlmConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, intermediate_size=hidden * 13696 // 4096,
        num_attention_heads=hidden // width, num_key_value_heads=2, head_dim=width, max_position_embeddings=LENGTH,
        pad_token_id=3,
    )  # fmt: skip
    model = families()["glm4"].model_class()(config)
    return model.to(device, torch.bfloat16 if device == "cuda" else torch.float32).train()


def packed_batch(data: Examples, rows: int, device: str) -> dict[str, Any]:
    """The first ``rows`` packed rows, on the device."""
    plan = plan_epoch(data.lengths, LENGTH, seed=0)
    dataset = PackedDataset(data, plan)  # type: ignore[arg-type]
    batch = PackedCollator(LENGTH, 3)([dataset[i] for i in range(rows)])
    return on(device, batch)


def one_pass(model: Any, batch: dict[str, Any]) -> float:
    """Forward and backward; the loss."""
    loss = model(**batch).loss
    loss.backward()
    model.zero_grad(set_to_none=True)
    return float(loss.detach())


def measure(family: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every round, by way; and the tokens that a round trains on."""
    make = {"chatglm": make_model, "glm4": make_glm4}[family]
    model = make(args.layers, args.hidden, args.vocabulary, args.device)
    shape = make_model(
        1, 64, args.vocabulary, "cpu"
    ).config  # the lengths' source: ids below its special ones
    batch = packed_batch(belle_like(16 * args.rows, shape), args.rows, args.device)
    ways = possible_ways(torch.device(args.device))
    losses = {}
    for way in ways:
        set_way(model, way)
        losses[way] = one_pass(model, batch)
    spread = max(losses.values()) - min(losses.values())
    if not spread < (2e-2 if args.device == "cuda" else 1e-4) * max(losses.values()):
        raise SystemExit(f"error: {family}: the ways give different losses: {losses}")
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way in ways:
            set_way(model, way)
            started = time.perf_counter()
            one_pass(model, batch)
            seconds[way].append(time.perf_counter() - started)
    tokens = int((batch["segment_ids"] > 0).sum())
    examples = sum(size > 0 for size in batch["segment_sizes"])
    return {
        "family": family,
        "tokens": tokens,
        "examples": examples,
        "loss_spread": spread,
        "seconds": seconds,
    }


def show(result: dict[str, Any]) -> dict[str, float]:
    """Print a table; gives each way's speed against the whole mask's."""
    print(f"{result['family']}: {result['examples']} examples, {result['tokens']} tokens a pass")
    whole = np.sum(result["seconds"]["whole"])
    ratios = {}
    for way, seconds in result["seconds"].items():
        ratios[way] = float(whole / np.sum(seconds))
        per_s = result["tokens"] / np.array(seconds)
        spread = f"{per_s.min():.0f} to {per_s.max():.0f}"
        print(f"  {way:7} {per_s.mean():9.0f} tokens/s ({spread})  {ratios[way]:.2f} x whole")
    return ratios


def main(argv: list[str] | None = None) -> int:
    """Measure and print; exit 1 where a CPU gains less than a tenth by another way than the whole mask."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--family", nargs="+", choices=["chatglm", "glm4"], default=["chatglm", "glm4"])
    parser.add_argument("--rows", type=int, default=2, help="packed rows a pass")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=4096 if cuda else 256)
    parser.add_argument("--vocabulary", type=int, default=130528 if cuda else 1200)
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds = 2
    torch.set_num_threads(1)
    results = [measure(family, args) for family in args.family]
    best = [max(show(result).values()) for result in results]
    if args.json:
        args.json.write_text(json.dumps(results, indent=2), encoding="utf-8")
    return 0 if cuda or min(best) >= 1.1 else 1


if __name__ == "__main__":
    sys.exit(main())
