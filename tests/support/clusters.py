"""Putting a test's own process on a rehearsal cluster."""

from __future__ import annotations

import os

import pytest

from hpc.devcluster import DevCluster


def enter(cluster: DevCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on this process is on a login node of the cluster, and in no job of another."""
    leave(monkeypatch)
    for name, value in cluster.environ().items():
        monkeypatch.setenv(name, value)


def leave(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is on no cluster, and in no job."""
    for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
