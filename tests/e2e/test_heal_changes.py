"""A change that a checkpoint cannot take up: heal's way out, typed as it stands, trains on from its weights."""

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
