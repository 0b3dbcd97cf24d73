"""Models on the GPU against float32 on the CPU: losses, gradients, packed rows, greedy answers, for each family."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import Findings, Place
from benchmarks.train_throughput import on
from glmjobs.generation.decoder import Engine, generate
from glmjobs.models.common.attention_ways import possible_ways, set_way
from tests.support.small_families import PROMPTS, packed_batch, small, small_trained

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
        batch = packed_batch(family, SIZES, LENGTH)
        wanted = outcome(small_trained(family, std=0.08, hidden_size=128), batch)
        for name, (loss_most, gradient_most) in BOUNDS.items():
            if place.device == "cpu" and name == "float16":
                continue  # not what a CPU is used for
            model = small_trained(family, std=0.08, hidden_size=128).to(place.device, getattr(torch, name))
            for way in possible_ways(torch.device(place.device)):
                set_way(model, way)
                loss, gradients = outcome(model, on(place.device, batch))
                label = f"{family} {name} {way}"
                found.bound(f"{label}: loss", abs(loss / wanted[0] - 1), loss_most)
                found.bound(f"{label}: gradients", worst(gradients, wanted[1]), gradient_most)
        found.bound(f"{family}: greedy tokens that differ", differing_tokens(family, place.device), 0)
    return found


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
