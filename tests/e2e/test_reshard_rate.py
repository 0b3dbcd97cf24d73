"""A learning rate that is changed where a training goes on with another number of ranks is in force at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from glmjobs import consolidate, heal, reshard
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from hpc.core.files import read_jsonl
from tests.support.small_training import Training, make_run, small_model

SETTINGS = (
    "train.precision=fp32", "train.scheduler=constant", "train.warmup_ratio=0", "train.logging_steps=1",
    "train.gradient_accumulation=2", "train.save_steps=1", "train.max_steps=2",
    "train.save_total_limit=4",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_from_the_first_step_on(zero: int, tmp_path: Path) -> None:
    """The step after is taken at a rate too small to move a weight, and not once more at the checkpoint's."""
    run = make_run(tmp_path, "run", small_model(tmp_path), *SETTINGS, f"train.zero_stage={zero}", gpus=1)
    with Training(run) as training:
        assert training.wait() == 0, training.said()
    (run.path / "stages" / "train.json").unlink()  # as if it had been cancelled after the checkpoint
    assert reshard.main([str(run.checkpoints / "checkpoint-2"), "--world-size", "2"]) == 0
    run = Run.open(run.path)
    changed = ("train.learning_rate=1e-9", "train.max_steps=4")
    run = heal.change(run, read_state(run, ask_slurm=False), changed, "local")
    with Training(run) as training:
        assert training.wait() == 0, training.said()
    rows = {row["step"]: row for row in read_jsonl(run.checkpoints / "train_log.jsonl")}
    assert [rows[step]["learning_rate"] for step in (2, 3, 4)] == pytest.approx([1e-3, 1e-9, 1e-9])
    assert moved(run, 1, 2) > 1e-4
    assert moved(run, 2, 3) < 1e-7 and moved(run, 3, 4) < 1e-7


def moved(run: Run, before: int, after: int) -> float:
    """The largest change of a weight between two checkpoints."""
    old, new = (weights(run, step) for step in (before, after))
    return max(float((new[name] - old[name]).abs().max()) for name in old)


def weights(run: Run, step: int) -> Any:
    """Every tensor of a checkpoint, in float32."""
    into = run.path / f"weights-{step}"
    checkpoint = run.checkpoints / f"checkpoint-{step}"
    if not into.exists():
        assert consolidate.main([str(checkpoint), str(into), "--dtype", "float32"]) == 0
    return load_file(into / "model.safetensors")
