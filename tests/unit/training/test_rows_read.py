"""A resume goes on with the rows that follow those its checkpoint was trained on, or says in one line why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("torch")
pytest.importorskip("transformers")

from glmjobs.data import packing
from glmjobs.training.loop_state import check_rows
from glmjobs.training.train_data import Reading
from hpc.core.errors import BadInput
from tests.support.small_training import Training, make_run, small_model

LENGTHS = [30, 10, 25, 40, 5, 20, 35, 15, 50, 45]


def reading(step_rows: int = 2, examples: str = "abc", lengths: Any = LENGTHS, **plan: Any) -> Reading:
    """Ten examples in packed rows, in the order that ``plan`` makes."""
    arguments: dict[str, Any] = {"epochs": 1, "seed": 3, "multiple": step_rows, **plan}
    return Reading(packing.plan_epochs(lengths, 60, **arguments), lengths, step_rows, examples)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Saved after two steps of :func:`reading`."""
    folder = tmp_path / "a run" / "checkpoints" / "checkpoint-2"
    folder.mkdir(parents=True)
    (folder / "loop_state_0.json").write_text(json.dumps({"rows": reading().record(2)}))
    return folder


def test_the_same_rows_go_on_also_in_a_longer_training(checkpoint: Path) -> None:
    assert check_rows(checkpoint, reading()) is None
    assert check_rows(checkpoint, reading(epochs=3)) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 4}, "another order"),
        ({"packed": False}, "another order"),
        ({"step_rows": 4}, "a step takes another number of rows"),
        ({"examples": "abd"}, "the examples are others"),
    ],
)
def test_other_rows_are_refused_in_one_line(changed: dict[str, Any], said: str, checkpoint: Path) -> None:
    with pytest.raises(BadInput) as refused:
        check_rows(checkpoint, reading(**changed))
    text = str(refused.value)
    assert text.startswith("checkpoint-2 ") and said in text and "\n" not in text
    weights = checkpoint.parent.parent / "model-2"
    assert f"glmjobs.consolidate '{checkpoint.parent.parent}' '{weights}' --dtype float32" in text


def test_an_older_checkpoint_is_gone_on_from_and_that_it_is_not_checked_is_said(checkpoint: Path) -> None:
    (checkpoint / "loop_state_0.json").write_text('{"running_loss": 0.0}')
    assert "not checked" in str(check_rows(checkpoint, reading()))
    (checkpoint / "loop_state_0.json").unlink()
    assert "not checked" in str(check_rows(checkpoint, reading()))


def test_the_train_stage_refuses_a_seed_that_was_changed_behind_its_back(tmp_path: Path) -> None:
    settings = ("train.precision=fp32", "train.max_steps=2", "train.save_steps=2")
    run = make_run(tmp_path, "run", small_model(tmp_path), *settings, gpus=1)
    with Training(run) as training:
        assert training.wait() == 0, training.said()
    (run.path / "stages" / "train.json").unlink()
    file = run.path / "run.yaml"
    text = yaml.safe_load(file.read_text())
    text["recipe"]["train"]["max_steps"] = 3
    file.write_text(yaml.safe_dump(text))
    with Training(run) as training:
        assert training.wait() == 0, training.said()
    (run.path / "stages" / "train.json").unlink()
    text["recipe"]["train"]["seed"] += 1
    text["recipe"]["train"]["max_steps"] = 4
    file.write_text(yaml.safe_dump(text))
    with Training(run) as training:
        assert training.wait() == 2, training.said()
        assert "checkpoint-3 was trained on other rows than would follow now" in training.log()
    assert not (run.checkpoints / "checkpoint-4").exists()
