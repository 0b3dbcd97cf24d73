"""Which evaluation is the best, which checkpoint becomes the model, when a training has stopped getting better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glmjobs.recipe.schema import TrainSection
from glmjobs.run import evaluations
from glmjobs.zero import committed
from hpc.core.errors import BadInput, WorkFailed

LOSSES = {0: 5.0, 2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0}
BEST = TrainSection(eval_steps=2, keep="best")


def write(folder: Path, losses: dict[int, Any], dev_set: str = "a-20") -> None:
    with (folder / evaluations.LOG).open("a") as file:
        for step, loss in losses.items():
            file.write(json.dumps({"step": step, "loss": 1.0}) + "\n")
            row = {"step": step, "dev_loss": loss, "dev_token_accuracy": step / 10, "dev_set": dev_set}
            file.write(json.dumps(row) + "\n")


def checkpoints(folder: Path, *steps: int) -> None:
    for step in steps:
        path = folder / f"checkpoint-{step}"
        path.mkdir()
        (path / "shard.pt").write_bytes(bytes(step))
        committed.commit(path, step, 1)


def test_the_best_is_the_earliest_of_equal_ones_and_a_loss_that_is_no_number_never(tmp_path: Path) -> None:
    write(tmp_path, {**LOSSES, 10: None})
    rows = evaluations.read(tmp_path)
    assert [row["step"] for row in rows] == [0, 2, 4, 6, 8, 10]
    top, by_accuracy = (evaluations.best(rows, metric) for metric in ("dev_loss", "dev_token_accuracy"))
    assert top and top["step"] == 4 and evaluations.without_gain(rows, "dev_loss") == 3
    assert (
        by_accuracy
        and by_accuracy["step"] == 10
        and evaluations.without_gain(rows, "dev_token_accuracy") == 0
    )
    assert evaluations.best([], "dev_loss") is None


def test_only_evaluations_on_the_same_rows_are_compared(tmp_path: Path) -> None:
    write(tmp_path, LOSSES)
    write(tmp_path, {10: 4.0, 12: 4.5}, "b-50")
    assert [row["step"] for row in evaluations.read(tmp_path)] == [10, 12]


def test_the_best_of_the_saved_checkpoints_becomes_the_model(tmp_path: Path) -> None:
    write(tmp_path, LOSSES)
    checkpoints(tmp_path, 2, 6, 8)
    last = evaluations.choose(tmp_path, TrainSection())
    assert last.path.name == "checkpoint-8" and last.why == "the last one"
    path, why = evaluations.choose(tmp_path, BEST)
    assert path.name == "checkpoint-8" and why == (
        "best dev loss, 2, of 5 evaluations (train.keep: best); 2 at step 4, whose checkpoint is not there"
    )
    write(tmp_path, {8: 9.0})  # evaluated once more: the later row counts
    path, why = evaluations.choose(tmp_path, BEST)
    assert path.name == "checkpoint-6" and "2.5, of 5 evaluations" in why and "; 9 at the last, step 8" in why
    (path / "shard.pt").write_bytes(b"cut")
    with pytest.raises(WorkFailed, match=r"checkpoint-6/shard\.pt: has 3 bytes"):
        evaluations.choose(tmp_path, BEST)


def test_a_start_that_stays_best_is_said(tmp_path: Path) -> None:
    write(tmp_path, {0: 1.0, 2: 3.0})
    checkpoints(tmp_path, 2)
    path, why = evaluations.choose(tmp_path, BEST)
    assert path.name == "checkpoint-2" and why.endswith("; 1 at step 0, before training")


def test_without_an_evaluated_checkpoint_it_is_the_last(tmp_path: Path) -> None:
    checkpoints(tmp_path, 2, 4)
    path, why = evaluations.choose(tmp_path, BEST)
    assert path.name == "checkpoint-4" and "none was evaluated" in why
    with pytest.raises(BadInput, match="train first"):
        evaluations.choose(tmp_path / "none", BEST)


def test_rotation_spares_the_best(tmp_path: Path) -> None:
    checkpoints(tmp_path, 2, 4, 6, 8)
    committed.rotate(tmp_path, 1, spare=4)
    assert [step for step, _ in committed.folders(tmp_path)] == [8, 4]


@pytest.mark.parametrize(
    ("eval_steps", "save_steps", "every"),
    [(7, 1000, 7), (0.1, 1000, 25), (0.001, 1000, 1), ("auto", 30, 30), ("auto", "auto", 25)],
)
def test_how_often(eval_steps: Any, save_steps: Any, every: int) -> None:
    assert evaluations.interval(TrainSection(eval_steps=eval_steps, save_steps=save_steps), 250) == every


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"keep": "best"}, "train.keep = best needs evaluations: set train.eval_steps"),
        ({"early_stop": 3}, "train.early_stop = 3 needs evaluations: set train.eval_steps"),
        (
            {"eval_steps": 1.5},
            "a number of steps from 1 on, a part of the training between 0 and 1, auto, or null",
        ),
        ({"eval_steps": "often"}, "a part of the training"),
        (
            {"metric": "dev_answers", "eval_steps": 5},
            "train.metric = dev_answers needs answers: set train.eval_answers",
        ),
        ({"metric": "bleu", "eval_steps": 5}, "dev_loss"),
    ],
)
def test_wrong_settings(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        TrainSection(**fields)
