"""What Slurm refuses for its size: said by the setting that mends it, and how the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal, submit
from glmjobs.cli import run_command
from glmjobs.run.directory import Run, rewrite
from hpc.slurm import client as slurm
from hpc.slurm.request_limits import array_limit, time_limits
from tests.support.small_chain import ids, words

pytestmark = pytest.mark.slurm


def refused(line: list[str], code: int, capsys: Any) -> str:
    assert run_command(submit.main, line) == code
    return str(capsys.readouterr().err.splitlines()[-1])


def test_time_and_memory_by_their_settings(place: Path, capsys: Any) -> None:
    said = refused(words("long", "jobs.train.time=9-00:00:00"), 1, capsys)
    assert "(jobs.train.time = 9-00:00:00; in partition gpu a job has 7-00:00:00 at most)" in said, said
    assert "the run directory stays: `python -m glmjobs.heal" in said and "--set FIELD=VALUE" in said
    run = Run.open(place / "long")
    assert run_command(heal.main, [str(run.path), "--set", "jobs.train.time=00:10:00"]) == 0
    assert set(ids(run)) == {"train", "consolidate", "score", "report"}
    slurm.cancel(list(ids(run).values()))


def test_an_array_that_is_too_large(place: Path, capsys: Any) -> None:
    most = array_limit()
    assert most is not None and most > 8
    line = words("wide", f"score.shards={most + 1}")
    said = refused(line, 3, capsys)
    assert f"score.shards = {most + 1}: " in said and f"takes {most} at most (MaxArraySize)" in said
    assert said.endswith("--set score.shards=1")
    assert refused([*line, "--dry-run"], 3, capsys).startswith("note: as it is now, this would be refused")
    assert not (place / "wide").exists()


def test_heal_says_of_an_array_what_submit_says(place: Path, capsys: Any) -> None:
    """Of a run that was made where Slurm took such arrays, or could not be asked."""
    most = array_limit()
    assert most is not None
    assert run_command(submit.main, words("wider", "jobs.train.time=9-00:00:00")) == 1, "refused; the run stays"
    run = Run.open(place / "wider")
    score = run.recipe.score.model_copy(update={"shards": most + 1})
    jobs = run.recipe.jobs.model_copy(update={"train": run.recipe.jobs.consolidate})
    run = rewrite(run, run.recipe.model_copy(update={"score": score, "jobs": jobs}), run.cluster)
    capsys.readouterr()
    assert run_command(heal.main, [str(run.path)]) == 3
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"error: score.shards = {most + 1}: ") and said.endswith("--set score.shards=1")
    assert not ids(run)
    assert run_command(heal.main, [str(run.path), "--set", "score.shards=1"]) == 0
    slurm.cancel(list(ids(run).values()))


def test_longest_times(slurm_env: dict[str, str]) -> None:
    assert time_limits() == time_limits("gpu") == {"gpu": "7-00:00:00"}
    assert time_limits("nowhere") == {}
