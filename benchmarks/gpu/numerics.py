"""Models on the GPU against float32 on the CPU: losses, gradients, packed rows, greedy answers, for each family."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import Findings, Place
from glmjobs.data.collate import segment_sizes
from glmjobs.generation.decoder import Engine, generate
from glmjobs.models.common.attention_ways import possible_ways, set_way
from tests.support.small_families import PROMPTS, small, small_trained

FAMILIES = ("chatglm", "glm", "glm4")
#: Largest relative difference of the loss and of a gradient (of its largest value) from float32 on the CPU. float32 on
#: a GPU adds in another order; float16 keeps 11 bits of a number, bfloat16 8.
BOUNDS = {"float32": (1e-4, 1e-3), "float16": (1e-2, 5e-2), "bfloat16": (3e-2, 2e-1)}
SIZES = [[61, 40, 90], [120, 55]]
LENGTH = 192


def run(place: Place) -> Findings:
    """Every family in every precision, and in every way of attention."""
    found = Findings()
    for family in FAMILIES:
        batch = packed_batch(family)
        wanted = outcome(small_trained(family, std=0.08, hidden_size=128), batch)
        for name, (loss_most, gradient_most) in BOUNDS.items():
            if place.device == "cpu" and name == "float16":
                continue  # not what a CPU is used for
            model = small_trained(family, std=0.08, hidden_size=128).to(place.device, getattr(torch, name))
            for way in possible_ways(torch.device(place.device)):
                set_way(model, way)
                loss, gradients = outcome(model, on(batch, place.device))
                label = f"{family} {name} {way}"
                found.bound(f"{label}: loss", abs(loss / wanted[0] - 1), loss_most)
                found.bound(f"{label}: gradients", worst(gradients, wanted[1]), gradient_most)
        found.bound(f"{family}: greedy tokens that differ", differing_tokens(family, place.device), 0)
    return found


def packed_batch(family: str) -> dict[str, Any]:
    """Two rows packed with examples that begin as the family's prompts do, and padding behind them."""
    ids, segments = torch.zeros(2, LENGTH, dtype=torch.long), torch.zeros(2, LENGTH, dtype=torch.long)
    labels = torch.full((2, LENGTH), -100)
    generator = torch.Generator().manual_seed(1)
    prompt = torch.tensor(PROMPTS[family])
    for row, sizes in enumerate(SIZES):
        at = 0
        for number, size in enumerate(sizes, start=1):
            tokens = torch.cat([prompt, torch.randint(20, 200, (size - len(prompt),), generator=generator)])
            ids[row, at : at + size], segments[row, at : at + size] = tokens, number
            labels[row, at + len(prompt) : at + size] = tokens[len(prompt) :]
            at += size
    return {
        "input_ids": ids, "segment_ids": segments, "labels": labels,
        "segment_sizes": segment_sizes(segments.numpy()),
    }  # fmt: skip


def on(batch: dict[str, Any], device: str) -> dict[str, Any]:
    """The batch on a device; what isn't a tensor stays."""
    return {name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()}


def outcome(model: Any, batch: dict[str, Any]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients, these in float32 on the CPU."""
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return float(loss.detach()), {n: p.grad.float().cpu() for n, p in model.named_parameters()}


def worst(gradients: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """The largest difference of any gradient, as a share of that gradient's largest value."""
    return max(
        float((gradients[n] - w).abs().max() / w.abs().max().clamp(min=1e-6)) for n, w in wanted.items()
    )


def differing_tokens(family: str, device: str) -> int:
    """Greedy tokens of a few prompts in float32, here and on the CPU, through the scoring's own decoder."""
    prompts = [PROMPTS[family], [*PROMPTS[family][:2], 17, *PROMPTS[family][2:]]]
    answers = []
    for where in ("cpu", device):
        engine = Engine(small(family, std=0.08).to(where), [], pad_id=0)
        answers.append({r.index: list(r.tokens) for r in generate(engine, prompts, [12, 12], 2)})
    return sum(a != b for i in answers[0] for a, b in zip(answers[0][i], answers[1][i], strict=False)) + sum(
        len(answers[0][i]) != len(answers[1][i]) for i in answers[0]
    )
