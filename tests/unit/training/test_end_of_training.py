"""The end of a training: its last step is logged, and epochs and tokens are those of the rows read, in every file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from glmjobs import status
from glmjobs.data import packing
from glmjobs.reporting.document import document
from glmjobs.reporting.load import load_facts
from glmjobs.run.inputs import ensure
from glmjobs.training.train_data import Reading, training_data
from hpc.core.files import read_json, read_jsonl
from tests.support.small_training import Training, make_run, small_model

LENGTHS = [30, 10, 25, 40, 5, 20, 35, 15, 50, 45]


@pytest.mark.parametrize(
    ("epochs", "step_rows", "after"),
    [
        (1, 4, {0: 0, 1: 1 / 3, 3: 1, 4: 4 / 3, 6: 2, 7: 7 / 3}),  # beyond the plan it is read again
        (2, 4, {2: 2 / 3, 3: 1, 5: 5 / 3, 6: 2, 9: 3}),
        (1.5, 5, {1: 0.5, 2: 1, 3: 1.5, 6: 3}),  # half an epoch is five of its rows
        (0.5, 5, {1: 0.5, 2: 1}),
    ],
)
def test_epochs_are_those_of_the_rows_read(epochs: float, step_rows: int, after: dict[int, float]) -> None:
    """Ten rows an epoch, filled up to whole steps."""
    plan = packing.plan_epochs(LENGTHS, 50, epochs=epochs, multiple=step_rows, packed=False)
    reading = Reading(plan, LENGTHS, step_rows)
    assert {step: reading.after(step).epoch for step in after} == {
        s: pytest.approx(e, abs=1e-6) for s, e in after.items()
    }


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_are_those_of_the_rows_read(packed: bool) -> None:
    plan = packing.plan_epochs(LENGTHS, 50, epochs=2, seed=3, multiple=3, packed=packed)
    reading = Reading(plan, LENGTHS, 3)
    rows = [sum(LENGTHS[i] for i in plan.row(r)) for r in range(len(plan))]
    for step in range(reading.steps + 1):
        assert reading.after(step).tokens == sum(rows[: 3 * step])
    assert reading.after(reading.steps) == (2.0, 2 * sum(LENGTHS))
    assert reading.after(reading.steps + 1).tokens == 2 * sum(LENGTHS) + sum(rows[:3])


def test_the_figures_are_the_same_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seven steps of an epoch of five, logged every third: log, Trainer's files, marker, progress, status, report."""
    run = make_run(
        tmp_path, "run", small_model(tmp_path), "train.precision=fp32", "train.max_steps=7", "train.epochs=1",
        "train.per_device_batch_size=35", "train.save_steps=100", gpus=1,
    )  # fmt: skip
    run.save_request.touch()
    with Training(run, limit=1) as training:
        assert training.wait() == 0, training.said()
        assert f"checkpoint-1 saved, as {run.save_request} asked; the file is removed" in training.log()
    assert not run.save_request.exists() and (run.checkpoints / "checkpoint-1" / "committed.json").is_file()
    ensure(run)
    from glmjobs.models import load_tokenizer

    reading = training_data(run.recipe, run.data, 1, load_tokenizer(run.base_model)).reading
    epoch, tokens = wanted = reading.after(7)
    assert 1 < epoch < 2 and reading.steps == 5, "the training ends within a second pass"
    assert tokens > sum(np.diff(reading.tokens)[: reading.step_rows])

    log = list(read_jsonl(run.checkpoints / "train_log.jsonl"))
    assert [r["step"] for r in log] == [1, 3, 6, 7]
    trainer = json.loads((run.checkpoints / "trainer_state.json").read_text())
    saved = json.loads((run.checkpoints / "checkpoint-7" / "trainer_state.json").read_text())
    results = [read_json(run.checkpoints / f"{name}_results.json") for name in ("train", "all")]
    progress = read_json(run.path / "stages" / "train.progress.json")
    marker = read_json(run.path / "stages" / "train.json")
    assert status.main([str(run.path), "--json"]) == 0
    stage = next(s for s in json.loads(capsys.readouterr().out)["stages"] if s["stage"] == "train")
    report = document(load_facts(run.path))["training"]
    assert report["steps"] == trainer["global_step"] == marker["figures"]["step"] == 7
    assert log[-1]["loss"] == pytest.approx(trainer["log_history"][-2]["loss"]) == stage["loss"]
    assert trainer["log_history"][-2]["step"] == 7
    for found in (
        (log[-1]["epoch"], log[-1]["tokens"]),
        (trainer["epoch"], trainer["num_input_tokens_seen"]),
        (trainer["log_history"][-1]["epoch"], tokens),
        (saved["epoch"], saved["num_input_tokens_seen"]),
        *((r["epoch"], r["tokens"]) for r in results),
        (progress["epoch"], progress["tokens"]),
        (marker["figures"]["epoch"], marker["figures"]["tokens"]),
        (stage["epoch"], stage["tokens"]),
        (report["epochs"], report["tokens"]),
    ):
        assert found == wanted
    assert results[0]["train_loss"] == marker["figures"]["train_loss"]
