"""Where preemption cancels (PreemptMode=CANCEL), a job queues itself again; and a chain that waits can be cancelled."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs.run.read_state import read_state
from hpc.batch.jobs import Chain, Job, Step
from hpc.batch.profile import Profile
from hpc.chain import ledger, submission
from hpc.devcluster import DevCluster
from hpc.doctor import scheduler
from hpc.slurm import client as slurm
from tests.support import clusters
from tests.support.paths import REPO, SUPPORT
from tests.support.small_chain import ids, start

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cancelling(make_cluster: Callable[..., Any]) -> Iterator[DevCluster]:
    with make_cluster(nodes=1, gpus=2, preemption=True, grace_time=10, extra=("PreemptMode=CANCEL",)) as made:
        yield made


@pytest.fixture
def there(cancelling: DevCluster, monkeypatch: pytest.MonkeyPatch, clean_queue: Any) -> DevCluster:
    clean_queue(cancelling)
    clusters.enter(cancelling, monkeypatch)
    return cancelling


@pytest.mark.parametrize("tasks", [2, 0], ids=["ranks", "one process"])
def test_preempted_it_starts_again(tasks: int, there: DevCluster, tmp_path: Path, wait_for: Any) -> None:
    """Ranks get SIGTERM as their grace begins; a batch process alone hears of it when Slurm ends it."""
    words = (sys.executable, str(SUPPORT / "attempt_rank.py"), "$RUN", "*:wait then done")
    step = Step(stage="work", command=words, tasks_per_node=tasks)
    job = Job(stage="work", steps=(step,), tasks_per_node=2, gpus_per_node=2, memory="2G", time="00:30:00")
    chain = Chain(run=tmp_path, jobs=(job,), profile=Profile(name="test", gpu_type="a100"), project=REPO)
    number = submission.submit(chain)["work"]
    wait_for(lambda: len(list(tmp_path.glob("started-*"))) >= max(1, tasks), 60, "it works")
    script = tmp_path / "high.sh"
    script.write_text("#!/bin/bash\ntrue\n")
    slurm.submit(script, extra=["--partition=high", "--gres=gpu:a100:2", f"--output={tmp_path}/high.out"])
    wait_for(lambda: slurm.jobs([number])[number].state.is_success, 120, "it is done")
    [first, last] = ledger.events(tmp_path, event="ended")
    assert (first["outcome"], last["outcome"]) == ("stopped", "done") and first["last_checkpoint"] >= 1
    assert first["preempted"] and first["taken"]


def test_the_doctor_says_so(there: DevCluster) -> None:
    rows = scheduler.check_partitions(Profile(partition="gpu"))
    assert [row.found for row in rows if row.state == "warn"] == ["PreemptMode=CANCEL"]


def test_a_waiting_chain_that_scancel_ended(place: Path, cluster: DevCluster, wait_for: Any) -> None:
    for node in ("node1", "node2"):
        slurm.update_node(node, "drain", reason="busy")
    try:
        run = start(place, "waiting")
        subprocess.run(["scancel", ids(run)["train"]], check=True)
        state = wait_for(lambda: (s := read_state(run)).ended and s, 60, "the end")
        assert state.state == "cancelled" and state.document()["state"] == "cancelled"
    finally:
        for node in ("node1", "node2"):
            slurm.update_node(node, "resume")
