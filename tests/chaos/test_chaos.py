"""The chaos suite. Everyday: a few faults on stages without torch (:mod:`light_stage`); `make test-chaos`: sixty over
several runs of them, fifteen at each strict site (:mod:`strict_sites`), then a dozen on a real small training.

CHAOS_FAULTS and CHAOS_SEED change number and order, CHAOS_SITE the strict sites; a failure names the seed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glmjobs.run import jobs
from hpc.batch.jobs import Job
from hpc.devcluster import DevCluster
from tests.slurm.conftest import require_slurm
from tests.support import clusters
from tests.support.campaign import Campaign
from tests.support.paths import SUPPORT
from tests.support.strict_sites import SITES, Site

Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.slurm
DISK = "1600m"  # the preflight wants 1 GB free


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path | None]:
    """A small file system of its own, mounted before the cluster starts (its nodes see only what was there then)."""
    path = tmp_path / "disk"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0755", "tmpfs", str(path)]
    mounted = os.geteuid() == 0 and subprocess.run(words, check=False, capture_output=True).returncode == 0
    yield path if mounted else None
    if mounted:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


EVERYWHERE = Site(())


def sites() -> list[str]:
    """The strict sites to go to: all, or those that CHAOS_SITE names."""
    wanted = [name for name in os.environ.get("CHAOS_SITE", "").split(",") if name] or list(SITES)
    if unknown := [name for name in wanted if name not in SITES]:
        raise pytest.UsageError(f"CHAOS_SITE: no site {', '.join(unknown)}; there are {', '.join(SITES)}")
    return wanted


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Site:
    """The strict site that a test is at; else one that lets everything happen."""
    name = getattr(request, "param", None)
    return SITES[name] if name else EVERYWHERE


@pytest.fixture
def stage(
    site: Site, tmp_path: Path, disk: Path | None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DevCluster]:
    """Two nodes with two GPUs each, slurmdbd, preemption; this process is on it and its runs lie on the disk."""
    require_slurm(accounting=True)
    monkeypatch.setenv("GLMJOBS_RUNS", str((disk or tmp_path) / "runs"))
    usual = {"nodes": 2, "gpus": 2, "accounting": True, "preemption": True, "grace_time": 30}
    with DevCluster(tmp_path / "cluster", **{**usual, **site.cluster}) as cluster:
        clusters.enter(cluster, monkeypatch)
        yield cluster


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain's jobs as they are, but each step runs its stand-in."""
    original = jobs.requests

    def requests(*args: Any, **options: Any) -> list[Job]:
        return [
            replace(request, steps=tuple(replace(s, command=stand_in(s.stage)) for s in request.steps))
            for request in original(*args, **options)
        ]

    monkeypatch.setattr(jobs, "requests", requests)


def stand_in(stage: str) -> tuple[str, ...]:
    script = SUPPORT.joinpath("light_stage.py")
    return (sys.executable, str(script), "$RUN", f"glmjobs.{stage}")


def endure(
    cluster: DevCluster,
    disk: Path | None,
    faults: int,
    site: Site = EVERYWHERE,
) -> None:
    """A campaign; its table is printed however it ends."""
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    wanted = int(os.environ.get("CHAOS_FAULTS", faults))
    campaign = Campaign(
        cluster,
        Path(os.environ["GLMJOBS_RUNS"]),
        disk,
        seed,
        wanted,
        settings=site.settings,
        without=site.without,
    )
    print()
    try:
        campaign.execute()
    finally:
        print(campaign.table())
    assert len(campaign.struck) >= wanted


def test_a_few_faults(stage: DevCluster, disk: Path | None, light: None) -> None:
    endure(stage, disk, 3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_faults(stage: DevCluster, disk: Path | None, light: None, capsys: Capture) -> None:
    with capsys.disabled():
        endure(stage, disk, 60)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("site", sites(), indirect=True)
def test_faults_at_a_strict_site(
    site: Site, stage: DevCluster, disk: Path | None, light: None, capsys: Capture
) -> None:
    with capsys.disabled():
        endure(stage, disk, 15, site)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_faults_in_a_real_training(stage: DevCluster, disk: Path | None, capsys: Capture) -> None:
    with capsys.disabled():
        endure(stage, disk, 12)
