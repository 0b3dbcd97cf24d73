"""Changes with a checkpoint there, really made: most are in force from the next step on; for what a checkpoint cannot
take up, heal's way out, typed as it stands, trains on from its weights."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from glmjobs import consolidate, heal
from glmjobs.run.read_state import read_state
from glmjobs.run.submit_checks import check_model
from hpc.core.errors import BadInput
from hpc.core.files import read_jsonl
from tests.support.small_training import Training, make_run, small_model

FIRST = ("train.precision=fp32", "train.max_steps=8", "train.save_steps=8", "train.scheduler=constant")


@pytest.mark.parametrize("wanted", ["train.precision=bf16", "train.zero_stage=3"])
def test_the_way_out_trains_on(wanted: str, tmp_path: Path) -> None:
    settings = (*FIRST, "train.warmup_ratio=0", "train.per_device_batch_size=16", "train.logging_steps=1")
    old = make_run(tmp_path, "old", small_model(tmp_path), *settings, gpus=1)
    with Training(old) as training:
        assert training.wait() == 0, training.said()
    (old.path / "stages" / "train.json").unlink()  # as if it had been cancelled after the checkpoint
    with pytest.raises(BadInput) as refused:
        heal.change(old, read_state(old, ask_slurm=False), [wanted], "local")
    said = str(refused.value)
    command, after = said.partition("python -m glmjobs.consolidate ")[2].split(
        "; then submit the recipe with "
    )
    assert consolidate.main(shlex.split(command)) == 0
    more = shlex.split(after)
    assert more[::2] == ["--set", "--set"] and more[3] == wanted
    weights = Path(more[1].partition("=")[2])
    assert check_model(weights, "glm") == weights
    new = make_run(tmp_path, "new", weights, *settings, wanted, "train.max_steps=2", gpus=1)
    with Training(new) as training:
        assert training.wait() == 0, training.said()
    before, now = (list(read_jsonl(run.checkpoints / "train_log.jsonl")) for run in (old, new))
    assert now[0]["loss"] < (before[0]["loss"] + before[-1]["loss"]) / 2, (
        "it goes on from where the old one was"
    )


def test_what_goes_on_is_in_force_from_the_next_step(tmp_path: Path) -> None:
    """Everything that docs/changing-a-run.md calls "goes on with it", at once."""
    settings = ("train.per_device_batch_size=16", "train.logging_steps=1", "train.warmup_ratio=0")
    run = make_run(tmp_path, "run", small_model(tmp_path), *FIRST, *settings, "train.max_steps=4", gpus=1)
    with Training(run) as training:
        assert training.wait() == 0, training.said()
    changed = (
        "train.max_steps=8", "train.epochs=60", "train.learning_rate=5e-4", "train.scheduler=linear",
        "train.warmup_ratio=0.25", "train.max_grad_norm=0.5", "train.activation_checkpointing=true",
        "train.lora.dropout=0.25", "train.save_steps=3", "train.save_total_limit=3", "train.logging_steps=2",
        "train.eval_steps=3", "train.eval_rows=10", "train.keep=best", "train.metric=dev_token_accuracy",
        "train.early_stop=9", "train.label_smoothing=0.1", "train.neftune_alpha=1",
    )  # fmt: skip
    run = heal.change(run, read_state(run, ask_slurm=False), changed, "local")
    with Training(run) as training:
        assert training.wait() == 0, training.said()
        assert "5e-05" not in training.log() and "0.0005 from here on" in training.log()
    log = list(read_jsonl(run.checkpoints / "train_log.jsonl"))
    assert [(r["step"], r["dev_examples"]) for r in log if "dev_loss" in r] == [(6, 10), (8, 10)]
    rows = {row["step"]: row for row in log if "loss" in row}
    assert sorted(rows) == [1, 2, 3, 4, 6, 8], "a line every second step"
    assert rows[4]["learning_rate"] == pytest.approx(1e-3)
    assert rows[6]["learning_rate"] == pytest.approx(5e-4 * (8 - 5) / 6), (
        "linear, from a warm-up of 2 steps of 8"
    )
    kept = sorted(p.name for p in run.checkpoints.glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-6", "checkpoint-8"], (
        "every third step, and the last; three are kept"
    )
