"""A QOS that lets a user have few jobs in the queue: said before anything is queued, and the rest follows."""

from __future__ import annotations

import getpass
import subprocess
from pathlib import Path
from typing import Any

import pytest

from glmjobs import heal, submit
from glmjobs.cli import run_command
from glmjobs.run.directory import Run
from hpc.batch.profile import Profile
from hpc.core.errors import HpcError
from hpc.doctor import scheduler
from hpc.slurm.job_limits import job_limits
from tests.support import clusters
from tests.support.small_chain import done, healed, ids, starts, words

pytestmark = pytest.mark.slurm


def test_without_accounting_the_controller_alone_limits(slurm_env: dict[str, str]) -> None:
    [limit] = job_limits()
    assert limit.of == "MaxJobCount of the cluster" and limit.most >= 1000
    [row] = scheduler.check_job_limits(Profile())
    assert row.state == "ok" and str(limit.most) in row.found


def test_a_slurm_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HpcError):
        job_limits()


@pytest.mark.slow
def test_three_jobs_at_a_time(
    small: Path, make_cluster: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any, wait_for: Any
) -> None:
    enforced = ("AccountingStorageEnforce=limits,qos",)
    with make_cluster(nodes=1, gpus=2, accounting=True, extra=enforced) as cluster:
        clusters.enter(cluster, monkeypatch)
        wait_for(lambda: limited() or set_limit(3), 60, "the controller to know the limit")
        [row] = scheduler.check_job_limits(Profile())
        assert row.state == "warn" and "QOS normal a user: 3 jobs in the queue" in row.found
        assert run_command(submit.main, words("few")) == 1
        lines = capsys.readouterr().err.splitlines()
        note = "the chain is 5 jobs and finds no room (QOS normal a user: 3 jobs in the queue)"
        assert f"note: {note}: those that do go out, heal submits the rest" in lines
        assert "the chain is 5 jobs" in lines[-1] and "stays; when there is room:" in lines[-1]
        run = Run.open(small / "few")
        before = ids(run)
        assert set(before) == {"train", "consolidate"}, "an array of two has no room beside them"
        wait_for(lambda: run.done("consolidate"), 90)

        def all_out() -> bool:
            assert run_command(heal.main, [str(run.path)]) in (0, 1)
            return len(ids(run)) == 4

        wait_for(all_out, 90, "room for the rest")
        wait_for(lambda: done(run), 90, "the chain to be done")
        assert {stage: ids(run)[stage] for stage in before} == before
        assert [len(starts(run, s)) for s in ("train", "consolidate", "score", "report")] == [1, 1, 2, 1]
        assert {what for what, _ in healed(capsys, run).values()} == {"done"}


def set_limit(most: int) -> None:
    """Have a user have at most so many jobs of the usual QOS in the queue."""
    user = getpass.getuser()
    for line in (["add", "account", "lab"], ["add", "user", user, "account=lab", "defaultaccount=lab"]):
        subprocess.run(["sacctmgr", "-i", *line], check=False, capture_output=True)
    command = ["sacctmgr", "-i", "modify", "qos", "normal", "set", f"MaxSubmitJobsPerUser={most}"]
    subprocess.run(command, check=False, capture_output=True)


def limited() -> bool:
    """Whether the limit is there, and the controller knows the user."""
    if not any(limit.most == 3 for limit in job_limits()):
        return False
    asked = ["sbatch", "--test-only", "--wrap=true"]
    return subprocess.run(asked, check=False, capture_output=True).returncode == 0
