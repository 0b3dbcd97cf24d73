"""What a job does when Slurm, a person or one of its own ranks ends it early, on a real Slurm.

The everyday tests have two stand-in ranks (``tests/support/attempt_rank.py``) in a script as submit makes it; the slow
ones train, in both ways of launching.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import submit
from glmjobs.run.directory import Run
from glmjobs.zero import committed
from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.batch.script import render
from hpc.chain import ledger
from hpc.devcluster import DevCluster
from hpc.runtime import heartbeat
from hpc.slurm import client as slurm
from hpc.slurm.client import JobState
from tests.support import clusters
from tests.support.by_hand import sbatch_training
from tests.support.paths import REPO, SUPPORT

pytestmark = pytest.mark.slurm

RANK = SUPPORT / "attempt_rank.py"
PATIENCE = 300.0


@pytest.fixture(scope="module")
def lent(make_cluster: Callable[..., Any]) -> Iterator[DevCluster]:
    """One node of two GPUs, a partition ``high`` that preempts, with half a minute's grace."""
    with make_cluster(nodes=1, gpus=2, preemption=True, grace_time=30) as made:
        yield made


@pytest.fixture
def there(lent: DevCluster, monkeypatch: pytest.MonkeyPatch, clean_queue: Any) -> DevCluster:
    """This process is on that cluster; its queue is emptied afterwards."""
    clean_queue(lent)
    clusters.enter(lent, monkeypatch)
    return lent


class Work:
    """Two ranks that do as ``told``, in a script as submit makes it."""

    def __init__(self, run: Path, told: str, wait_for: Any, *, limit: int = 3, silence: float = 60) -> None:
        self.run, self.wait_for = run, wait_for
        (run / "jobs" / "work").mkdir(parents=True)
        request = Job(
            stage="work", name="work", tasks_per_node=2, gpus_per_node=2, time="00:30:00", signal_seconds=60,
            attempt_limit=limit,
            steps=(Step(stage="work", command=(sys.executable, str(RANK), "$RUN", told), tasks_per_node=2),),
        )  # fmt: skip
        profile = Profile(name="test", gpu_type="a100")
        chain = Chain(run=run, jobs=(request,), profile=profile, project=REPO)
        script = run / "jobs" / "work" / "script.sh"
        script.write_text(render(request, chain))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.id = slurm.submit(script, env={**os.environ, "LIMIT": str(silence), "PATH": path})

    def until(self, what: Callable[[], Any], name: str) -> Any:
        return self.wait_for(what, PATIENCE, f"{name}\n{self.said()}")

    def events(self, event: str) -> list[dict[str, Any]]:
        return ledger.events(self.run, event=event)

    def working(self, attempts: int = 1) -> None:
        """Until both ranks of that attempt work."""
        pids = attempts * 2
        self.until(lambda: len(list(self.run.glob("started-*"))) >= pids, f"ranks of attempt {attempts}")

    def over(self) -> JobState:
        """Until Slurm has ended the job for good; how."""
        self.until(lambda: slurm.jobs([self.id])[self.id].state.is_final, "the end")
        return slurm.jobs([self.id])[self.id].state

    def said(self) -> str:
        return "".join(p.read_text(errors="replace") for p in (self.run / "jobs" / "work").glob("*.*"))


@pytest.fixture
def job(there: DevCluster, tmp_path: Path, wait_for: Any) -> Callable[..., Work]:
    return lambda told, **options: Work(tmp_path / "run", told, wait_for, **options)


def end_soon(job: str, seconds: float) -> None:
    """Move a job's time limit to ``seconds`` from now."""
    end = datetime.datetime.now() + datetime.timedelta(seconds=seconds)  # Slurm takes local time
    words = ["scontrol", "update", f"jobid={job}", f"EndTime={end.isoformat(timespec='seconds')}"]
    subprocess.run(words, check=True)


def preempt(folder: Path) -> str:
    """A job that takes the node's GPUs, in the partition that may; it ends at once."""
    script = folder / "high.sh"
    script.write_text("#!/bin/bash\ntrue\n")
    words = ["--partition=high", "--gres=gpu:a100:2", f"--output={folder}/high.out"]
    return slurm.submit(script, extra=words)


def test_time_limit(job: Callable[..., Work]) -> None:
    one = job("*:wait then done")
    one.working()
    end_soon(one.id, 50)  # within the 60 s of its warning
    assert one.over() is JobState.COMPLETED, one.said()
    [first, last] = one.events("ended")
    assert (first["outcome"], first["signal"], last["outcome"]) == ("stopped", "SIGUSR1", "done")
    assert first["last_checkpoint"] >= 1
    assert {e["job"] for e in one.events("attempt")} == {one.id}, "under the same id"


def test_preemption(job: Callable[..., Work], tmp_path: Path) -> None:
    one = job("*:wait then done")
    one.working()
    preempt(tmp_path)
    assert one.over() is JobState.COMPLETED, one.said()
    [first, last] = one.events("ended")
    assert (first["outcome"], last["outcome"]) == ("stopped", "done") and first["last_checkpoint"] >= 1
    assert [e["job"] for e in one.events("attempt")] == [one.id] * 2, "under the same id"


def test_scancel_ends_it(job: Callable[..., Work]) -> None:
    one = job("*:wait")
    one.working()
    subprocess.run(["scancel", one.id], check=True)
    assert one.over() is JobState.CANCELLED, one.said()
    one.until(lambda: one.events("cancelled"), "word of it in the ledger")
    assert not one.events("requeued") and len(one.events("attempt")) == 1


def test_scancel_after_the_warning_ends_it(job: Callable[..., Work]) -> None:
    one = job("*:hang")  # takes no notice of the warning
    one.working()
    subprocess.run(["scancel", "--batch", "--signal=USR1", one.id], check=True)
    subprocess.run(["scancel", one.id], check=True)
    assert one.over() is JobState.CANCELLED, one.said()
    assert not one.events("requeued") and len(one.events("attempt")) == 1


def test_killed_rank_takes_the_step_down_and_it_starts_again(job: Callable[..., Work]) -> None:
    one = job("1:killed then done")
    assert one.over() is JobState.COMPLETED, one.said()
    [first, last] = one.events("ended")
    assert (first["outcome"], last["outcome"]) == ("failed", "done")
    assert [e["job"] for e in one.events("requeued")] == [one.id]


def test_hanging_rank_is_found_and_it_starts_again(job: Callable[..., Work]) -> None:
    one = job("1:hang then done", silence=4)
    assert one.over() is JobState.COMPLETED, one.said()
    [hung] = one.events("hung")
    assert hung["ranks"] == [1] and hung["node"] == "node1" and hung["step"] == 3
    log = (one.run / "jobs" / "work" / "rank-1.log").read_text()
    assert "stuck_here" in log, "the stack of the rank that hung"
    assert [e["outcome"] for e in one.events("ended")] == ["failed", "done"]
    assert [e["job"] for e in one.events("requeued")] == [one.id]


def test_crash_loop_ends_with_the_reason(job: Callable[..., Work]) -> None:
    one = job("1:fail 1", limit=2)
    assert one.over() is JobState.FAILED, one.said()
    assert [(e["outcome"], e["failed_rank"]) for e in one.events("ended")] == [("failed", 1)] * 2
    assert "2 attempts in a row failed without a new checkpoint" in one.said()
    assert "rank 1 on node1 was first" in one.said()


SMALL = (
    "data.make.rows=200", "data.dev_rows=1-20", "train.epochs=1", "train.save_steps=20", "train.max_steps=100000",
    "model.make.layers=2", "model.make.hidden_size=64",
)  # fmt: skip


def by_submit(folder: Path) -> tuple[Run, str]:
    """A training through glmjobs.submit: its run and job."""
    words = ["--recipe", "configs/tiny.yaml", "--cluster", "configs/clusters/devcluster.yaml", "--gpus", "2"]
    words += ["--executor", "slurm", "--name", "run", "--stages", "train"]
    assert submit.main([*words, *(w for item in SMALL for w in ("--set", item))]) == 0
    run = Run.open(folder / "runs" / "run")
    return run, str(ledger.events(run.path, event="submitted", stage="train")[0]["job"])


def by_sbatch(folder: Path) -> tuple[Run, str]:
    """The same through sbatch/chatglm6b.sh."""
    path = folder / "runs" / "run"
    options = ("--signal=B:USR1@60", "--time=00:30:00")
    job = sbatch_training(path, SMALL, folder, os.environ, *options)
    end = time.monotonic() + PATIENCE
    while not (path / "run.yaml").is_file():
        assert time.monotonic() < end, (folder / f"{job}.out").read_text()
        time.sleep(0.05)
    return Run.open(path), job


def beats(run: Run) -> list[dict[str, Any]]:
    """Both ranks' heartbeats, or none."""
    found = heartbeat.read(run.jobs("train") / "heartbeat")
    return found if len(found) == 2 else []


def at(moment: str, run: Run) -> bool:
    """Whether the training is just there."""
    if moment == "warm-up":
        return bool(beats(run))
    if moment == "saving":
        found = list(run.checkpoints.glob("checkpoint-*"))
        return any(not (path / committed.COMMITTED).exists() for path in found)
    return newest(run) > 0


def newest(run: Run) -> int:
    """Step of the newest checkpoint that counts, or 0."""
    found = committed.newest(run.checkpoints)
    return found.step if found else 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("way", [by_submit, by_sbatch])
@pytest.mark.parametrize(
    ("what", "moment"),
    [("time limit", "training"), ("time limit", "warm-up"), ("preemption", "training"), ("preemption", "saving"),
     ("preemption", "warm-up")],
)  # fmt: skip
def test_training_goes_on(
    way: Any, what: str, moment: str, there: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> None:  # fmt: skip
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    run, job = way(tmp_path)
    wait_for(lambda: at(moment, run), PATIENCE, moment)
    if what == "preemption":
        preempt(tmp_path)
    else:
        end_soon(job, 50)
    wait_for(lambda: ledger.events(run.path, event="requeued", stage="train"), PATIENCE, "a requeue")
    [ended] = ledger.events(run.path, event="ended", stage="train")
    last = ended.get("last_checkpoint")
    assert ended["outcome"] == "stopped", ended
    wait_for(lambda: newest(run) > (last or 0), PATIENCE, "a checkpoint of the second attempt")
    attempts = ledger.events(run.path, event="attempt", stage="train")
    assert [e["job"] for e in attempts] == [job] * 2, "under the same id"
    log = (run.jobs("train") / "rank-0.log").read_text()
    # Slurm looks at time limits every half minute: where a machine is fast, the warm-up is over by then.
    if moment == "warm-up" and (what == "preemption" or last is None):
        assert last is None and "stopped before the first step" in log
    else:
        assert f"resuming from checkpoint-{last}" in log and f"stopped at step {last} of" in log, (
            "no step is done twice"
        )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_seconds_from_a_ranks_death_to_the_end_of_the_step(
    there: DevCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Any
) -> None:
    monkeypatch.setenv("GLMJOBS_RUNS", str(tmp_path / "runs"))
    run, _ = by_submit(tmp_path)
    wait_for(lambda: at("training", run), PATIENCE, "a checkpoint")
    os.kill(int(beats(run)[1]["pid"]), 9)
    began = time.monotonic()
    wait_for(lambda: ledger.events(run.path, event="ended", stage="train"), PATIENCE, "the step's end")
    seconds = time.monotonic() - began
    print(f"{seconds:.1f} s from a rank's death to the step's end on record")
    assert seconds < 30
    wait_for(lambda: ledger.events(run.path, event="requeued", stage="train"), PATIENCE, "a requeue")
