"""A real Slurm for the tests of this folder: pretended nodes and GPUs, everything else as on a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hpc.core.errors import NotFit
from hpc.devcluster import DevCluster
from hpc.devcluster.commands import require_programs
from hpc.slurm import client as slurm
from hpc.slurm.client import JobInfo, JobState
from tests.support import clusters
from tests.support.small_chain import small

__all__ = ["small"]


def require_slurm(accounting: bool = False) -> None:
    """Skip where the daemons are missing; fail if HPC_REQUIRE_SLURM=1 says that they have to be there."""
    try:
        require_programs(accounting)
    except NotFit as error:
        if os.environ.get("HPC_REQUIRE_SLURM") == "1":
            pytest.fail(f"HPC_REQUIRE_SLURM=1, but {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """Two nodes with 8 A100s each, no accounting; shared by the whole session: leave its queue empty."""
    require_slurm()
    with DevCluster(tmp_path_factory.mktemp("slurm"), nodes=2, gpus=8) as made:
        yield made


@pytest.fixture(scope="session")
def accounting_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevCluster]:
    """Two nodes with 8 A100s each, with slurmdbd (sacct works), preemption, a short memory for ended jobs."""
    require_slurm(accounting=True)
    directory = tmp_path_factory.mktemp("slurmdbd")
    with DevCluster(directory, nodes=2, gpus=8, accounting=True, preemption=True, min_job_age=2) as made:
        yield made


@pytest.fixture(scope="session")
def make_cluster(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``with make_cluster(nodes=1, …) as c:`` a cluster of one test's own, to be hurt."""

    @contextmanager
    def make(**fields: Any) -> Iterator[DevCluster]:
        require_slurm(accounting=bool(fields.get("accounting")))
        with DevCluster(tmp_path_factory.mktemp("own"), **fields) as made:
            yield made

    return make


@pytest.fixture
def slurm_env(cluster: DevCluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Puts this process itself on the cluster (os.environ), for code that asks the environment."""
    clusters.leave(monkeypatch)
    environ = cluster.environ()
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, environ[name])
    return environ


def _wait_for(predicate: Callable[[], Any], timeout: float = 60.0, what: str = "") -> Any:
    end = time.monotonic() + timeout
    while True:
        if value := predicate():
            return value
        if time.monotonic() > end:
            pytest.fail(f"not within {timeout:g} s: {what or predicate}")
        time.sleep(0.05)


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """``wait_for(predicate, timeout=60, what="")`` polls until the predicate is true; its value."""
    return _wait_for


@pytest.fixture(scope="session")
def wait_job() -> Callable[..., JobInfo]:
    """``wait_job(cluster, id, states=final, timeout=60)`` polls until the job is in one of ``states``."""

    def wait(on: DevCluster, job: str, states: set[JobState] | None = None, timeout: float = 60.0) -> JobInfo:
        last: JobInfo | None = None

        def arrived() -> JobInfo | None:
            nonlocal last
            last = slurm.jobs([job], env=on.environ()).get(job)
            if last is None:
                return None
            reached = last.state.is_final if states is None else last.state in states
            return last if reached else None

        try:
            return _wait_for(arrived, timeout)  # type: ignore[no-any-return]
        except pytest.fail.Exception:
            pytest.fail(f"job {job} not in {states or 'a final state'} within {timeout:g} s, but {last}")

    return wait


@pytest.fixture
def sbatch(tmp_path: Path) -> Callable[..., str]:
    """``sbatch(cluster, "commands", "--option", …)`` submits a small script: the job id. Output goes to
    ``tmp_path/<job id>.out``."""

    def submit(on: DevCluster, body: str, *options: str, dependency: str | None = None) -> str:
        script = tmp_path / "job.sh"
        script.write_text(f"#!/bin/bash\n{body}\n")
        extra = [f"--output={tmp_path}/%j.out", f"--chdir={tmp_path}", *options]
        return slurm.submit(script, dependency=dependency, extra=extra, env=on.environ())

    return submit


@pytest.fixture
def clean_queue() -> Iterator[Callable[[DevCluster], None]]:
    """Call it with a cluster: after the test its queue is emptied."""
    used: list[DevCluster] = []
    yield used.append
    for on in used:
        env = on.environ()
        slurm.run(["scancel", "-u", str(os.getuid())], env=env)
        _wait_for(partial(_queue_is_empty, env), 60.0, "an empty queue")


@pytest.fixture
def place(
    small: Path, slurm_env: dict[str, str], cluster: DevCluster, clean_queue: Callable[[DevCluster], None]
) -> Path:
    """A folder for runs of stand-ins on the shared cluster, whose queue is emptied afterwards."""
    clean_queue(cluster)
    return small


def _queue_is_empty(env: dict[str, str]) -> bool:
    return not slurm.run(["squeue", "-h", "-o", "%i"], env=env).strip()
