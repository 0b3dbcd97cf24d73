"""A loss that is no number is found with its step, whatever the precision; float16 may leave some steps out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glmjobs.training.health import NEVER, SKIPPED_IN_A_ROW, Health
from hpc.runtime.stop import EXIT_FATAL


def engine(norm: Any = 1.0, overflow: bool = False) -> Any:
    return SimpleNamespace(get_global_grad_norm=lambda: norm, optimizer=SimpleNamespace(overflow=overflow))


def after(health: Health, losses: list[float], at: Any = None) -> int:
    for step, loss in enumerate(losses, 1):
        health.note(torch.tensor(loss), step)
        health.after_step(at or engine())
    return health.first_bad_step(at or engine(), len(losses))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_first_bad_step_is_remembered(precision: str, bad: float) -> None:
    health = Health(precision, 1e-3)
    step = after(health, [1.0, 2.0, bad, 1.0, bad])
    error = health.error(step, newest=2)
    assert str(error).startswith("step 3: ") and "0.001" in str(error) and "checkpoint-2" in str(error)
    assert ("bf16" in str(error)) == (precision == "fp32") and error.exit_code == EXIT_FATAL


def test_all_well() -> None:
    assert after(Health("fp32", 1e-3), [1.0, 1e30]) == NEVER
    assert after(Health("fp16", 1e-3), [1.0, float("nan"), 1.0]) == NEVER, "DeepSpeed leaves that step out"


@pytest.mark.parametrize("norm", [-1.0, torch.tensor(-1.0), float("nan"), float("inf")])
def test_bad_gradients_behind_a_good_loss(norm: Any) -> None:
    health = Health("bf16", 1e-3)
    assert str(health.error(after(health, [1.0, 1.0], engine(norm)), None)).startswith("step 2: ")


def test_the_earliest_step_of_all_ranks_wins() -> None:
    late, early = Health("fp32", 1e-3), Health("fp32", 1e-3)
    a, b = after(late, [1.0, 1.0, float("nan")]), after(early, [1.0, float("nan"), 1.0])
    assert str(late.error(min(a, b), None)).startswith("step 2: ")


def test_float16_that_leaves_out_every_step() -> None:
    health, skipping = Health("fp16", 1e-3), engine(overflow=True)
    assert after(health, [1.0] * (SKIPPED_IN_A_ROW - 1), skipping) == NEVER
    health.after_step(skipping)
    step = health.first_bad_step(skipping, SKIPPED_IN_A_ROW)
    assert step < NEVER and str(health.error(step, None)).startswith("step 1: float16 overflowed in")
    health.after_step(engine())
    assert health.first_bad_step(engine(), SKIPPED_IN_A_ROW + 1) == NEVER
