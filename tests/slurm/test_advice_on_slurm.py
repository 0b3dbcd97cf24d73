"""docs/when-things-fail.md, faults of Slurm: each is made, its words are seen, the advice is typed and helps."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glmjobs import status
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from hpc.slurm import reasons
from tests.support.advice import advice_for, follow, seen
from tests.support.small_chain import done, ended, ids, start, starts, tell

pytestmark = pytest.mark.slurm
FULL = ("--nodes=2", "--exclusive", "--gres=gpu:a100:8")


@pytest.fixture
def full(cluster: DevCluster, sbatch: Callable[..., str], tmp_path: Path, wait_for: Any) -> str:
    """A job of somebody else's that has both nodes."""
    job = sbatch(cluster, "while :; do read -t 0.2 <> <(:) || :; done", *FULL)
    wait_for(lambda: slurm.jobs([job])[job].state.is_active, 60, "the nodes to be taken")
    return job


def shown(run: Run, capsys: Any) -> str:
    """What status says."""
    capsys.readouterr()
    assert status.main([str(run.path)]) == 0
    return str(capsys.readouterr().out)


def says(words: str, run: Run, wait_for: Any, capsys: Any) -> None:
    wait_for(lambda: seen(words, why(run)), 60, f"{words} in {why(run)}")
    assert len(shown(run, capsys)) > 0


def why(run: Run) -> str:
    return "\n".join(f"{s.reason} {s.error}" for s in read_state(run).stages)


def test_a_busy_cluster(place: Path, full: str, wait_for: Any, capsys: Any) -> None:
    run = start(place, "busy")
    words = ("waits for free nodes", "jobs of higher priority come first")
    wait_for(lambda: any(seen(w, why(run)) for w in words), 60)
    assert {advice_for(w) for w in words} == {"nothing"}
    slurm.cancel([full])
    wait_for(lambda: done(run), 120)


def test_put_back(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "back", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    slurm.requeue(ids(run)["train"])
    words = "put back a moment ago; it may start again in a minute or two"
    says(words, run, wait_for, capsys)
    assert advice_for(words).startswith("nothing")
    (run.path / "go").touch()
    wait_for(lambda: done(run), 180)


def test_a_stage_that_failed(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "failed", train="fail 7")
    wait_for(lambda: ended(run, "train", "failed"), 60)
    says("train …: it waits for `heal`", run, wait_for, capsys)
    waiting = ids(run)["consolidate"]
    slurms = "the job it waits for did not end well: it never starts by itself"
    wait_for(lambda: reasons.waiting(slurm.jobs([waiting])[waiting]) == slurms, 60)
    assert "train was told to fail" in str(read_state(run).get("train").error)
    tell(run.path, train="ok")
    follow(slurms, run.path)
    wait_for(lambda: done(run), 120)


def test_more_time_than_the_partition_allows(
    place: Path, full: str, slurm_env: dict[str, str], wait_for: Any, capsys: Any
) -> None:
    run = start(place, "long", "jobs.train.time=12:00:00")
    before = slurm.run(["sinfo", "-h", "-o", "%l", "-p", "gpu"]).strip()
    words = "asks for more time than the partition allows: it never starts"
    slurm.run(["scontrol", "update", "PartitionName=gpu", "MaxTime=10:00:00"])
    try:
        slurm.cancel([full])
        says(words, run, wait_for, capsys)
        follow(words, run.path)
        assert Run.open(run.path).recipe.jobs.train.time == "08:00:00"
        wait_for(lambda: done(run), 120)
    finally:
        slurm.run(["scontrol", "update", "PartitionName=gpu", f"MaxTime={before}"])


def test_held_by_hand(place: Path, full: str, wait_for: Any, capsys: Any) -> None:
    """Both ways out: the command that status shows, as it stands, and heal."""
    run = start(place, "held")
    words = "held: `scontrol release …` lets it go"
    for typed in (True, False):
        subprocess.run(["scontrol", "uhold", ids(run)["train"]], check=True)
        says(words, run, wait_for, capsys)
        if typed:
            reason = read_state(run).get("train").reason
            command = reason.partition("`")[2].partition("`")[0]
            assert command == f"scontrol release {ids(run)['train']}"
            subprocess.run(["bash", "-c", command], check=True)
        else:
            assert advice_for(words) == "heal releases it"
            follow("cancelled … (Slurm: CANCELLED)", run.path)  # heal
        wait_for(lambda: not seen(words, why(run)), 60)
    slurm.cancel([full])
    wait_for(lambda: done(run), 120)


def test_cancelled(place: Path, wait_for: Any, capsys: Any) -> None:
    """One that waits, and one that runs: it says by itself what it was told."""
    run = start(place, "cancelled", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    subprocess.run(["scancel", ids(run)["report"], ids(run)["train"]], check=True)
    wait_for(lambda: read_state(run).ended, 60)
    for words in ("cancelled … (Slurm: CANCELLED)", "told to stop (…"):
        says(words, run, wait_for, capsys)
    tell(run.path, train="ok")
    follow("told to stop (…", run.path)
    wait_for(lambda: done(run), 120)


def test_no_result(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "swallowed", train="nothing")
    words = "Slurm calls the job COMPLETED, but the stage left no result"
    says(words, run, wait_for, capsys)
    tell(run.path, train="ok")
    follow(words, run.path)
    wait_for(lambda: done(run), 120)
