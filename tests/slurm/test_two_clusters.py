"""Two clusters on one file system: all of Slurm's commands get the one that a job was submitted to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel, heal
from glmjobs.cli import run_command
from glmjobs.run.read_state import read_state, read_states
from glmjobs.run.state import CANCELLED, RUNNING, WAITING
from hpc.chain import ledger
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support.clusters import leave
from tests.support.small_chain import done, healed, ids, start, starts

pytestmark = pytest.mark.slurm
Clusters = tuple[DevCluster, DevCluster]


@pytest.fixture(scope="module")
def clusters(make_cluster: Callable[..., Any]) -> Iterator[Clusters]:
    """``east`` and ``west``, each with a node, under one slurmdbd."""
    with (
        make_cluster(nodes=1, gpus=2, accounting=True, name="east") as east,
        make_cluster(nodes=1, gpus=2, name="west", beside=str(east.root)) as west,
    ):
        yield east, west


@pytest.fixture(scope="module")
def strangers(make_cluster: Callable[..., Any]) -> Iterator[Clusters]:
    """Two that know nothing of each other."""
    with make_cluster(nodes=1, gpus=2, name="north") as north, make_cluster(nodes=1, name="south") as south:
        yield north, south


@pytest.fixture
def at(small: Path, monkeypatch: pytest.MonkeyPatch, clean_queue: Any) -> Callable[..., Path]:
    """``at(cluster, "west")``: this process is on a login node of the cluster, with SLURM_CLUSTERS=west."""
    leave(monkeypatch)

    def go(cluster: DevCluster, named: str = "") -> Path:
        for name, value in cluster.environ().items():
            monkeypatch.setenv(name, value)
        clean_queue(cluster)
        if named:
            monkeypatch.setenv("SLURM_CLUSTERS", named)
        else:
            monkeypatch.delenv("SLURM_CLUSTERS", raising=False)
        return small

    return go


def queue(cluster: DevCluster) -> dict[str, str]:
    """Job → state, of all that a cluster holds."""
    env = {k: v for k, v in cluster.environ().items() if k != "SLURM_CLUSTERS"}
    return dict(line.split() for line in slurm.run(["squeue", "-h", "-o", "%i %T"], env=env).splitlines())


@pytest.mark.parametrize("choice", ["west", "west,nowhere", "all"])
def test_a_run_stays_on_the_cluster_it_was_submitted_to(
    clusters: Clusters, at: Any, choice: str, wait_for: Any, capsys: Any
) -> None:
    east, west = clusters
    folder = at(west)  # its queue is emptied as well
    at(east, choice)
    if choice == "all":
        slurm.update_node("node1", "drain", reason="so west starts it sooner", env=at_home(east))
    if choice == "west,nowhere":
        choice = "west"
    run = start(folder, "far", train="wait")
    if choice == "all":
        slurm.update_node("node1", "resume", env=at_home(east))
    events = ledger.events(run.path, event="submitted")
    clusters_of = {e["cluster"] for e in events}
    assert len(clusters_of) == 1 and all(e["named"] for e in events)
    there, other = (west, east) if clusters_of == {"west"} else (east, west)
    wait_for(lambda: starts(run, "train"), 60)
    for named in ("", "east", "west"):  # whatever the next shell says
        at(east, named)
        state = read_state(run)
        assert state.get("train").state == RUNNING and state.get("report").state == WAITING, named
        assert state.get("report").reason == "waits for the job before it"
        assert {how for how, _ in healed(capsys, run).values()} == {"keep"}
    at(east)
    before = ids(run)
    slurm.requeue(before["train"], env={**os.environ, "SLURM_CLUSTERS": clusters_of.pop()})
    assert cancel.main([str(run.path)]) == 0
    wait_for(lambda: not queue(there), 60, "the jobs to be gone where they were")
    assert not queue(other)
    assert healed(capsys, run)["report"][1] == before["report"], "and healed where they were"
    assert not queue(other) and queue(there)
    (run.path / "go").touch()
    wait_for(lambda: done(run), 90)


def at_home(cluster: DevCluster) -> dict[str, str]:
    return {k: v for k, v in cluster.environ().items() if k != "SLURM_CLUSTERS"}


def test_from_the_other_clusters_login_node(clusters: Clusters, at: Any, wait_for: Any, capsys: Any) -> None:
    east, west = clusters
    at(west)
    run = start(at(east), "away", train="wait")
    twin = start(at(west), "twin", train="wait")  # the same numbers, more or less
    wait_for(lambda: starts(run, "train") and starts(twin, "train"), 60)
    states = read_states([run, twin])
    assert [s.get("train").state for s in states] == [RUNNING, RUNNING]
    assert {how for how, _ in healed(capsys, run).values()} == {"keep"}
    assert cancel.main([str(run.path)]) == 0
    wait_for(lambda: not queue(east), 60)
    assert read_state(run).get("report").state == CANCELLED
    assert read_state(twin).get("train").state == RUNNING and len(queue(west)) >= 4


def test_a_cluster_that_cannot_be_asked_from_here(
    strangers: Clusters, at: Any, wait_for: Any, capsys: Any
) -> None:
    north, south = strangers
    at(south)
    run = start(at(north), "unreached", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    at(south)
    state = read_state(run)
    assert state.get("report").state == WAITING and not state.ended
    assert state.get("report").reason == "its job is on the cluster north, which cannot be asked from here"
    capsys.readouterr()
    for command in (heal.main, cancel.main):
        assert run_command(command, [str(run.path)]) == 3
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.endswith("do this on a login node of north\n"), said
    assert not queue(south) and len(queue(north)) >= 4
    at(north)
    assert cancel.main([str(run.path)]) == 0
    wait_for(lambda: not queue(north), 60)
