"""The number of ranks and the ZeRO stage change nothing about what is learned.

A run that does not crash proves nothing: DeepSpeed 0.16.9 trains on torch 2.0.1 with other losses. So two ranks are
compared with one that takes the same rows by accumulation, under ZeRO-2 and ZeRO-3, step by step. Runs on either stack
(``make test-cluster-stack``).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from hpc.core.files import read_jsonl

SETTINGS = (
    "data.make.rows=300", "data.dev_rows=1-20", "model.make.layers=2", "model.make.hidden_size=64",
    "train.epochs=1", "train.per_device_batch_size=8", "train.max_steps=6", "train.save_steps=6",
    "train.logging_steps=1", "train.learning_rate=5e-3", "train.eval_steps=3",
    "train.eval_answers=5", "score.max_new_tokens=8",
)  # fmt: skip


class Losses(NamedTuple):
    """Loss and gradient norm of every step of a training of its own, and its evaluations."""

    steps: list[tuple[float, float]]
    dev: list[tuple[int, float, float]]


def losses(repo: Path, runs: Path, zero: int, ranks: int) -> Losses:
    """Train, and read the log."""
    name = f"zero{zero}-{ranks}"
    words = [sys.executable, "-m", "glmjobs.submit", "--recipe", "configs/tiny.yaml", "--executor", "local"]
    words += ["--gpus", str(ranks), "--name", name, "--stages", "train", "--follow"]
    for item in (*SETTINGS, f"train.zero_stage={zero}", f"train.gradient_accumulation={2 // ranks}"):
        words += ["--set", item]
    done = subprocess.run(
        words, cwd=repo, env={**os.environ, "GLMJOBS_RUNS": str(runs)}, capture_output=True, text=True, check=False,
        timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    log = list(read_jsonl(runs / name / "checkpoints" / "train_log.jsonl"))
    steps = [row for row in log if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    evaluated = [row for row in log if "dev_loss" in row]
    assert all(row["dev_answers"] is not None and 0 < row["dev_answers_marked"] <= 5 for row in evaluated)
    dev = [(row["step"], row["dev_loss"], row["dev_token_accuracy"]) for row in evaluated]
    return Losses([(row["loss"], row["grad_norm"]) for row in steps], dev)


@pytest.fixture(scope="module")
def one_rank(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """One rank under ZeRO-2: what all others are compared with."""
    return losses(repo, tmp_path_factory.mktemp("runs"), zero=2, ranks=1)


@pytest.mark.parametrize(("zero", "ranks"), [(2, 2), (3, 2)])
def test_losses_equal_those_of_one_rank(
    zero: int, ranks: int, repo: Path, tmp_path: Path, one_rank: Losses
) -> None:
    several = losses(repo, tmp_path, zero, ranks)
    assert several.steps[0][0] != several.steps[-1][0], "it learns"
    for mine, reference in zip(several.steps, one_rank.steps, strict=True):
        assert mine == pytest.approx(reference, rel=2e-4)
    assert several.dev[0] == one_rank.dev[0], "the same weights have the same dev loss, to the bit"
    assert [step for step, *_ in several.dev] == [0, 3, 6]
    for dev, reference_dev in zip(several.dev, one_rank.dev, strict=True):
        assert dev == pytest.approx(reference_dev, rel=2e-3)
