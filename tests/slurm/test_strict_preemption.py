"""Preempted where a chain may not do all that it would: what is saved is kept, and it goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmjobs.run import jobs
from glmjobs.run.read_state import read_state
from hpc.batch.jobs import Job
from hpc.chain import ledger
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support import clusters
from tests.support.small_chain import done, healed, ids, start, starts

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

NO_REQUEUE = "cluster.requeue=false"
REST = ("consolidate", "score", "report")


@pytest.fixture(scope="module")
def crowded(make_cluster: Callable[..., Any]) -> Iterator[DevCluster]:
    with make_cluster(nodes=1, gpus=1, preemption=True, grace_time=10) as made:
        yield made


@pytest.fixture
def there(small: Path, crowded: DevCluster, monkeypatch: pytest.MonkeyPatch, clean_queue: Any) -> Path:
    clean_queue(crowded)
    clusters.enter(crowded, monkeypatch)
    made = jobs.requests

    def with_ranks(*given: Any, **named: Any) -> list[Job]:
        """train is a rank, as it is in earnest: Slurm tells steps that they are preempted."""
        train, *rest = made(*given, **named)
        # srun gives a step the array's variables again, which the stand-in would take for pieces of work.
        alone = ("env", "-u", "SLURM_ARRAY_TASK_ID", "-u", "SLURM_ARRAY_TASK_COUNT")
        step = replace(train.steps[0], tasks_per_node=1, command=(*alone, *train.steps[0].command))
        return [replace(train, signal_seconds=60, steps=(step,)), *rest]

    monkeypatch.setattr(jobs, "requests", with_ranks)
    return small


def preempt(folder: Path) -> None:
    """A job that may, takes the GPU and ends at once."""
    script = folder / "high.sh"
    script.write_text("#!/bin/bash\ntrue\n")
    slurm.submit(script, extra=["--partition=high", "--gres=gpu:1", f"--output={folder}/high.out"])


@pytest.mark.parametrize(
    ("settings", "by_itself"),
    [
        ((), True),
        ((NO_REQUEUE,), False),
        ((NO_REQUEUE, "jobs.train.attempts=3"), True),
        (("cluster.gpu_request=none",), True),
        (("cluster.gpu_request=gpus", "cluster.memory_request=none", "cluster.cpu_job_gpus=1"), True),
    ],
    ids=["all allowed", "no requeue", "queued attempts", "whole nodes", "gpus, no memory, GPUs for all"],
)
def test_preempted(
    settings: tuple[str, ...], by_itself: bool, there: Path, tmp_path: Path, wait_for: Any, capsys: Any
) -> None:
    run = start(there, "taken", *settings, train="save")
    before = ids(run)
    wait_for(lambda: starts(run, "train"), 60, "it works")
    preempt(tmp_path)
    wait_for(lambda: (ledger.progress(run.path, "train").get("checkpoint") or 0) >= 1, 120, "it saves")
    if not by_itself:
        wait_for(lambda: read_state(run).ended, 90, "nothing more to happen by itself")
        assert healed(capsys, run)["train"][0] in ("replace", "requeue", "submit")
    wait_for(lambda: len(starts(run, "train")) == 2, 150, "the next attempt")
    (run.path / "go").touch()
    wait_for(lambda: done(run), 90, "the chain to be done")
    assert {stage: ids(run)[stage] for stage in REST} == {stage: before[stage] for stage in REST}
    assert [len(starts(run, stage)) for stage in REST] == [1, 2, 1]
    attempts = ledger.events(run.path, event="attempt", stage="train")
    assert [a.get("checkpoint") for a in attempts] == [None, 1]
