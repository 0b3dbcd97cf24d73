"""Status and logs where Slurm's answers are late, missing or purged: the run directory decides."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel, logs, runs, status
from glmjobs.cli import run_command
from glmjobs.run import gpu_hours
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from glmjobs.run.state import CANCELLED, DONE, FAILED, LOST, RUNNING, STOPPED, WAITING, StageState
from hpc.chain import ledger
from hpc.slurm import client as slurm
from tests.support import clusters
from tests.support.small_chain import done, ended, healed, ids, start, starts, tell

pytestmark = pytest.mark.slurm


@pytest.fixture
def hurt(small: Path, make_cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``with hurt(nodes=1, …) as cluster``: this process is on a cluster of the test's own."""
    from contextlib import contextmanager

    @contextmanager
    def make(**fields: Any) -> Any:
        with make_cluster(**fields) as made:
            clusters.enter(made, monkeypatch)
            yield made

    return make


def stage(run: Run, name: str) -> StageState:
    return read_state(run).get(name)


def test_a_run_from_queue_to_end(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "whole", train="wait")
    wait_for(lambda: stage(run, "train").state == RUNNING and starts(run, "train"), 60)
    assert stage(run, "consolidate").reason == "waits for the job before it"
    capsys.readouterr()
    assert status.main([str(run.path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "running" and not document["ended"]
    assert {s["stage"]: s["job"] for s in document["stages"]}["train"] == ids(run)["train"]
    (run.path / "go").touch()
    wait_for(lambda: done(run), 60)
    assert read_state(run).state == DONE and read_state(run).ended
    assert status.main([str(run.path)]) == 0
    assert "done" in capsys.readouterr().out
    assert status.main([]) == 0 and runs.main([]) == 0
    assert capsys.readouterr().out.count("whole") == 2
    wait_for(lambda: not still_counted(run), 30)  # the last stage's end is written after its marker


def still_counted(run: Run) -> list[str]:
    """Stages whose GPU-hours grow with the clock, by the ledger alone."""
    return [a.stage for a in gpu_hours.attempts(ledger.read(run.path)) if a.outcome == "running"]


def test_failed_and_never_satisfied(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "failed", train="fail 7")
    wait_for(lambda: ended(run, "train", "failed"), 60)
    wait_for(
        lambda: (
            slurm.jobs([ids(run)["consolidate"]])[ids(run)["consolidate"]].reason
            == "DependencyNeverSatisfied"
        ),
        60,
    )
    state = read_state(run)
    assert state.state == FAILED and state.ended
    assert state.get("consolidate").reason == "train failed: it waits for `heal`"
    assert status.main([str(run.path)]) == 0
    shown = capsys.readouterr().out
    assert "glmjobs.heal" in shown and "train was told to fail" in shown  # what it wrote, not its exit code
    assert logs.main([str(run.path)]) == 0
    assert "train was told to fail" in capsys.readouterr().out


def test_cancelled_behind_our_back_and_by_us(place: Path, wait_for: Any) -> None:
    run = start(place, "cancelled", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    slurm.cancel([ids(run)["report"]])
    wait_for(lambda: stage(run, "report").state == CANCELLED, 30)
    slurm.cancel([ids(run)["train"]])
    wait_for(lambda: stage(run, "train").state in (CANCELLED, STOPPED), 60)
    assert read_state(run).ended
    assert not still_counted(run)


def test_a_cancel_that_slurm_does_not_hear(hurt: Any, small: Path, wait_for: Any, capsys: Any) -> None:
    with hurt(nodes=1) as cluster:
        run = start(small, "deaf", train="wait")
        wait_for(lambda: starts(run, "train"), 60)
        cluster.kill_controller()
        capsys.readouterr()
        assert run_command(cancel.main, [str(run.path)]) == 3
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if not line.startswith("waiting for the Slurm controller")] == lines[
            -1:
        ]
        assert stage(run, "train").state == RUNNING
        assert stage(run, "consolidate").state == WAITING
        cluster.restart_controller()
        assert run_command(cancel.main, [str(run.path)]) == 0
        assert stage(run, "consolidate").state == CANCELLED


def test_requeued_by_hand(place: Path, wait_for: Any) -> None:
    run = start(place, "requeued", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    slurm.requeue(ids(run)["train"])
    wait_for(lambda: stage(run, "train").state == WAITING, 30)
    assert stage(run, "train").reason.startswith("requeued")
    assert not read_state(run).ended
    (run.path / "go").touch()
    wait_for(lambda: done(run), 90)


def test_job_that_dies_before_its_first_line(place: Path, wait_for: Any) -> None:
    run = start(place, "early", "cluster.environment.modules=[nosuch/1.0]")
    wait_for(lambda: stage(run, "train").state == FAILED, 60)
    error = stage(run, "train").error or ""
    assert "before its first line; node" in error and "module" in error, error


def test_swallowed_exit_code(place: Path, wait_for: Any) -> None:
    run = start(place, "swallowed", train="wait")
    wait_for(lambda: starts(run, "train"), 60)
    slurm.cancel([ids(run)["train"]])
    wait_for(lambda: slurm.jobs([ids(run)["train"]])[ids(run)["train"]].state.is_final, 60)
    script = run.path / "empty.sh"
    script.write_text("#!/bin/bash\ntrue | cat\n")
    mark = f"glmjobs:{run.file.key}:train"
    job = slurm.submit(script, extra=["--output=/dev/null", f"--comment={mark}"])
    ledger.append(run.path, "submitted", stage="train", job=job, executor="slurm", comment=mark)
    wait_for(lambda: slurm.jobs([job])[job].state.is_final, 60)
    assert stage(run, "train").state == LOST
    assert "COMPLETED, but the stage left no result" in str(stage(run, "train").error)


def test_node_fails_and_controller_restarts(hurt: Any, small: Path, wait_for: Any, capsys: Any) -> None:
    with hurt(nodes=2, gpus=2) as cluster:
        run = start(small, "node", train="wait")
        wait_for(lambda: starts(run, "train"), 60)
        cluster.kill_controller()
        state = read_state(run)
        assert state.slurm and state.get("train").state == RUNNING
        assert "last sign of life" in state.get("train").reason
        assert status.main([str(run.path)]) == 0
        assert "Slurm does not answer" in capsys.readouterr().out
        cluster.restart_controller()
        wait_for(lambda: not read_state(run).slurm, 30)
        assert stage(run, "train").state == RUNNING
        slurm.run(["scontrol", "update", f"JobId={ids(run)['train']}", "Requeue=0"])
        node = str(stage(run, "train").nodes)
        cluster.kill_node(node)
        wait_for(lambda: stage(run, "train").state == FAILED, 60)
        assert "a node failed" in str(stage(run, "train").error) and "NODE_FAIL" in str(
            stage(run, "train").error
        )
        tell(run.path, train="ok")
        assert healed(capsys, run)["train"][0] == "replace", "a job with Requeue=0 cannot keep its id"
        wait_for(lambda: done(run), 120)


def test_preempted_purged_and_without_slurmdbd(hurt: Any, small: Path, wait_for: Any) -> None:
    with hurt(nodes=1, gpus=1, accounting=True, preemption=True, min_job_age=2) as cluster:
        run = start(small, "preempted", train="wait")
        wait_for(lambda: starts(run, "train"), 60)
        script = small / "high.sh"
        script.write_text(f"#!/bin/bash\nwhile [ ! -e {small}/over ]; do read -t 0.2 <> <(:) || :; done\n")
        high = slurm.submit(script, extra=["-p", "high", "--gres=gpu:1", "--output=/dev/null"])
        wait_for(lambda: stage(run, "train").state == WAITING, 60)
        assert stage(run, "train").reason.startswith("requeued"), stage(run, "train")
        (run.path / "go").touch()
        (small / "over").touch()
        wait_for(lambda: done(run), 120)
        wait_for(lambda: slurm.show(ids(run)["report"]) is None and slurm.show(high) is None, 60, "the purge")
        assert read_state(run).state == DONE
        # A job that ended without a word: sacct still knows how, and when slurmdbd is down, nobody does.
        lost = start(small, "lost", train="wait")
        wait_for(lambda: starts(lost, "train"), 60)
        slurm.cancel([ids(lost)["train"]])
        strip_end(lost)
        wait_for(lambda: slurm.show(ids(lost)["train"]) is None, 60, "the purge")
        strip_end(lost)
        wait_for(lambda: stage(lost, "train").state == CANCELLED, 60)
        assert "cancelled by" in str(stage(lost, "train").error)
        cluster.kill("slurmdbd")
        old(lost)
        assert stage(lost, "train").state == LOST
        assert "no longer knows" in str(stage(lost, "train").error)
        assert read_state(run).state == DONE


def strip_end(run: Run) -> None:
    """Take the attempt's end out of the ledger, as when its node lost power."""
    path = run.path / "ledger.jsonl"
    gone = ('"event":"ended"', '"event":"cancelled"')
    path.write_text("".join(s for s in path.read_text().splitlines(True) if not any(g in s for g in gone)))


def old(run: Run) -> None:
    """Make the stage's files look as if nobody had written for an hour."""
    import time

    for path in (run.path / "jobs").rglob("*"):
        os.utime(path, (time.time() - 3600,) * 2)


def test_logs_by_stage_rank_and_follow(place: Path, wait_for: Any, capsys: Any) -> None:
    run = start(place, "logs", score_1="fail 7")
    wait_for(lambda: ended(run, "score", "failed"), 60)
    capsys.readouterr()
    assert logs.main([str(run.path), "--stage", "score", "--rank", "1"]) == 0
    out = capsys.readouterr().out
    assert out.count("==>") == 1 and "score was told to fail" in out
    tell(run.path, score_1="ok")
    healed(capsys, run)
    assert logs.main([str(run.path), "--stage", "report", "--follow"]) == 0, "ends when the stage has"
    assert done(run)
