"""A float16 loss that is no number costs its step, and nothing else: what is logged stays numbers, and what is skipped
is counted; a training that took no step at all has failed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("deepspeed")

from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from glmjobs.reporting.document import document
from glmjobs.reporting.load import load_facts
from glmjobs.reporting.wording import training_sentence
from glmjobs.run.directory import Run
from glmjobs.training import trainer
from hpc.core.files import read_json, read_jsonl
from hpc.runtime.stop import EXIT_FATAL
from tests.support.forked_training import forked
from tests.support.small_families import small_glm
from tests.support.small_training import make_run

STEPS = 6


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    # DeepSpeed refuses float16 on CPUs without instructions for it; torch computes it on all, only slowly.
    monkeypatch.setattr(CPU_Accelerator, "is_fp16_supported", lambda self: True)
    return make_run(
        tmp_path, "run", small_glm(tmp_path / "glm"), f"train.max_steps={STEPS}", "train.logging_steps=2",
        "train.gradient_accumulation=1", "train.save_steps=3", gpus=1,
    )  # fmt: skip


def poison(patch: pytest.MonkeyPatch, *steps: int) -> None:
    """The forward passes of these steps overflow."""
    compute = trainer.Trainer.compute_loss

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = compute(self, *args, **kwargs)
        return loss * math.inf if self.state.global_step + 1 in steps else loss

    patch.setattr(trainer.Trainer, "compute_loss", poisoned)


def strict(path: Path) -> list[dict[str, Any]]:
    """JSON as everybody reads it: NaN is none."""
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_one_infinite_loss_is_skipped_counted_and_forgotten(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, 3)
    assert forked(run) == [0]
    log = strict(run.checkpoints / "train_log.jsonl")
    assert [(row["step"], row["skipped_steps"]) for row in log] == [(1, 0), (2, 0), (4, 1), (6, 1)]
    assert all(3 < row["loss"] < 9 for row in log), log
    figures = read_json(run.path / "stages" / "train.json")["figures"]
    assert figures["skipped_steps"] == 1 and 3 < figures["train_loss"] < 9
    assert "1 step skipped (float16 overflowed)" in capfd.readouterr().err
    assert "1 of the steps were skipped" in training_sentence(document(load_facts(run.path)))


def test_a_training_without_a_step_has_failed(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    poison(monkeypatch, *range(1, STEPS + 1))
    assert forked(run) == [EXIT_FATAL]
    assert not run.done("train")
    assert [row["loss"] for row in read_jsonl(run.checkpoints / "train_log.jsonl")] == [None] * 4
    said = capfd.readouterr().err
    assert f"float16 overflowed in all {STEPS} steps, so nothing was learned; try" in said
    assert "loss none" in said
