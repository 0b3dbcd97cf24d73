"""The chaos suite. Everyday: a few faults; `make test-chaos`: sixty over several runs.

CHAOS_FAULTS and CHAOS_SEED change number and order; a failure names the seed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign import Campaign

from hpc.devcluster import DevCluster
from hpc.devcluster.commands import require_programs
from hpc.errors import NotFit

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


@pytest.fixture
def stage(tmp_path: Path, disk: Path | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevCluster]:
    """Two nodes with two GPUs each, slurmdbd, preemption; this process is on it and its runs lie on the disk."""
    try:
        require_programs(accounting=True)
    except NotFit as error:
        pytest.skip(str(error))
    for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GLMJOBS_RUNS", str((disk or tmp_path) / "runs"))
    with DevCluster(
        tmp_path / "cluster", nodes=2, gpus=2, accounting=True, preemption=True, grace_time=30
    ) as cluster:
        for name, value in cluster.environ().items():
            monkeypatch.setenv(name, value)
        yield cluster


def campaign(cluster: DevCluster, disk: Path | None, faults: int) -> Campaign:
    seed = int(os.environ.get("CHAOS_SEED", "1"))
    wanted = int(os.environ.get("CHAOS_FAULTS", faults))
    return Campaign(cluster, Path(os.environ["GLMJOBS_RUNS"]), disk, seed, wanted)


def test_a_few_faults(stage: DevCluster, disk: Path | None) -> None:
    c = campaign(stage, disk, 3)
    try:
        c.execute()
    finally:
        print(c.table())
    assert len(c.struck) >= c.wanted


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_many_faults(stage: DevCluster, disk: Path | None, capsys: pytest.CaptureFixture[str]) -> None:
    c = campaign(stage, disk, 60)
    with capsys.disabled():
        print()
        try:
            c.execute()
        finally:
            print(c.table())
    assert len(c.struck) >= c.wanted
