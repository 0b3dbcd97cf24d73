"""A training's state afterwards: the model directory has its loss, and other numbers of GPUs go on with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glmjobs.run.directory import Run
from hpc.core.files import read_jsonl
from tests.support.state_loss import dev_loss

STEPS = 40
SETTINGS = (
    "data.make.rows=400", "data.dev_rows=1-40", "model.make.layers=2", "model.make.hidden_size=64",
    f"train.max_steps={STEPS}", "train.save_steps=4", "train.logging_steps=1", "train.per_device_batch_size=8",
    "train.gradient_accumulation=2", "train.save_total_limit=20", "train.weight_decay=0.1",
)  # fmt: skip
BOUND = 400


def glmjobs(repo: Path, *words: object, runs: Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """One of the toolkit's commands."""
    done = subprocess.run(
        [sys.executable, "-m", *(str(word) for word in words)],
        cwd=repo, env={**os.environ, "GLMJOBS_RUNS": str(runs)}, capture_output=True, text=True, check=False,
        timeout=BOUND,
    )  # fmt: skip
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


def words(name: str, zero: int) -> list[str]:
    """A submission of the small recipe."""
    items = [item for setting in (*SETTINGS, f"train.zero_stage={zero}") for item in ("--set", setting)]
    return ["glmjobs.submit", "--recipe", "configs/tiny.yaml", "--gpus", "2", "--executor", "local", "--name", name,
            "--stages", "train,consolidate", *items]  # fmt: skip


def losses(run: Run) -> dict[int, float]:
    """Loss by step; a step that was done twice counts as it was last."""
    return {row["step"]: row["loss"] for row in read_jsonl(run.checkpoints / "train_log.jsonl")}


@pytest.mark.parametrize("zero", [2, 3])
def test_loss_of_the_model_directory_and_of_a_training_on_fewer_gpus(
    zero: int, repo: Path, tmp_path: Path
) -> None:
    glmjobs(repo, *words("whole", zero), "--follow", runs=tmp_path)
    whole = Run.open(tmp_path / "whole")
    assert sorted(losses(whole)) == list(range(1, STEPS + 1))
    assert_same_loss(whole, repo, tmp_path)
    broken_off = stopped_early(repo, zero, tmp_path)
    checkpoint = max(broken_off.checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.partition("-")[2]))
    glmjobs(repo, "glmjobs.reshard", checkpoint, "--world-size", 1, runs=tmp_path)
    glmjobs(repo, "glmjobs.heal", broken_off.path, "--follow", runs=tmp_path)
    healed = Run.open(broken_off.path)
    assert (healed.shape.gpus, healed.recipe.train.gradient_accumulation) == (1, 4)
    assert healed.done("train") and healed.done("consolidate")
    expected, got = losses(whole), losses(healed)
    assert got.keys() == expected.keys()
    for step, loss in expected.items():
        assert got[step] == pytest.approx(loss, rel=1e-5), step


def assert_same_loss(run: Run, repo: Path, folder: Path) -> None:
    """On the dev set, of the consolidated model and of the state that the ranks load."""
    from glmjobs.models import load_model, load_tokenizer

    checkpoint = run.checkpoints / f"checkpoint-{STEPS}"
    glmjobs(
        repo, "hpc.runtime.local_launch", "--nproc", 2, "--log", folder, "--", sys.executable, "-m",
        "tests.support.state_loss", run.path, checkpoint, folder / "state", runs=folder,
    )  # fmt: skip
    measured = [json.loads((folder / f"state-{rank}.json").read_text()) for rank in (0, 1)]
    assert [m["step"] for m in measured] == [STEPS, STEPS]
    tokens = folder / "tokens"
    mine, before = (
        dev_loss(run, load_model(path, dtype="float32").eval(), tokens, load_tokenizer(path))
        for path in (run.model, run.base_model)
    )
    assert mine < before - 0.5, "it has learnt, so that the state is told from the base model"
    for state in measured:
        assert mine == pytest.approx(state["loss"], rel=1e-5)


def stopped_early(repo: Path, zero: int, folder: Path) -> Run:
    """A training that is cancelled when it has saved twice and has more than that to do."""
    glmjobs(repo, *words("broken-off", zero), runs=folder)
    run_path, end = folder / "broken-off", time.monotonic() + BOUND
    try:
        while not (run_path / "checkpoints" / "checkpoint-8" / "committed.json").exists():
            assert time.monotonic() < end, "no checkpoint"
            time.sleep(0.01)
    finally:
        glmjobs(repo, "glmjobs.cancel", run_path, runs=folder, ok=False)
    run = Run.open(run_path)
    assert 8 <= max(losses(run)) < STEPS and not run.done("train")
    return run
