"""The scripts in sbatch/: training runs whatever becomes of the jobs after it, and those get sbatch's options too."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hpc.chain import ledger, submission
from hpc.devcluster import DevCluster
from hpc.slurm import client as slurm
from tests.support.by_hand import on_nodes, sbatch_training
from tests.support.small_chain import ids, start

pytestmark = pytest.mark.slurm

DENIED = 'echo "sbatch: error: Batch job submission failed: Access/permission denied" >&2; exit 1'
AWAY = 'echo "sbatch: error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
ABSENT = "echo \"timeout: failed to run command 'sbatch': No such file or directory\" >&2; exit 127"
REST = ("consolidate", "score", "report")


@pytest.fixture
def here(tmp_path: Path, slurm_env: dict[str, str], cluster: DevCluster, clean_queue: Any) -> Path:
    clean_queue(cluster)
    return tmp_path


@pytest.mark.parametrize("what", [DENIED, AWAY, ABSENT], ids=["denied", "away", "absent"])
def test_nodes_that_may_not_submit(
    what: str, here: Path, wait_for: Any, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_nodes(here, "sbatch", what, monkeypatch)
    job = sbatch_training(here / "run", (), here, os.environ)
    said = wait_for(lambda: out(here, job) if "note:" in out(here, job) else "", 60, "the note")
    wait_for(lambda: ledger.events(here / "run", event="attempt"), 60, "training's first stage")
    [note] = [line for line in said.splitlines() if line.startswith("note:")]
    assert "training runs, but consolidate, score, report could not be submitted from node" in note
    # The command that it names, as it stands, on the login node.
    command = note.partition("on a login node: ")[2]
    done = subprocess.run(["bash", "-c", command], cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ids = submission.current_jobs(here / "run")
    assert ids["train"] == job and set(REST) < set(ids)
    known = slurm.jobs([ids["consolidate"]])
    assert job in known[ids["consolidate"]].dependency


def given(run: Path, names: dict[str, str], wait_for: Any) -> None:
    """All four jobs were asked for with the same."""
    wait_for(lambda: len(submission.current_jobs(run)) >= 4, 60, "the rest")
    for job in submission.current_jobs(run).values():
        shown = slurm.show(job)
        assert shown is not None and {name: shown.get(name) for name in names} == names, job


def test_what_sbatch_was_given_reaches_the_jobs_that_follow(here: Path, wait_for: Any) -> None:
    reserve = ["scontrol", "create", "reservation", "ReservationName=course", "StartTime=now", "Duration=60"]
    slurm.run([*reserve, "Nodes=node1", "Users=root"])
    try:
        options = ("--exclude=node2", "--mail-type=END", "--mail-user=me", "--nice=7", "--reservation=course")
        sbatch_training(here / "run", (), here, os.environ, *options)
        wanted = {
            "ExcNodeList": "node2",
            "MailType": "END",
            "MailUser": "me",
            "Nice": "7",
            "Reservation": "course",
        }
        given(here / "run", wanted, wait_for)
    finally:
        slurm.cancel(list(submission.current_jobs(here / "run").values()))
        slurm.run(["scontrol", "delete", "ReservationName=course"])


def test_its_quality_of_service_does_too(
    accounting_cluster: DevCluster,
    tmp_path: Path,
    clean_queue: Any,
    wait_for: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clean_queue(accounting_cluster)
    for name, value in accounting_cluster.environ().items():
        monkeypatch.setenv(name, value)
    slurm.run(["sacctmgr", "-i", "add", "qos", "big"])
    sbatch_training(tmp_path / "run", (), tmp_path, os.environ, "--qos=big")
    given(tmp_path / "run", {"QOS": "big"}, wait_for)


def test_sbatchs_variables_reach_submits_jobs(
    place: Path, wait_for: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "project7")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    run = start(place, "shell", train="wait")
    assert "note: SBATCH_TIMELIMIT of this shell: not used" in capsys.readouterr().err
    given(run.path, {"Account": "project7"}, wait_for)
    shown = slurm.show(ids(run)["train"])
    assert shown is not None and shown["TimeLimit"] == "00:10:00"


def test_from_inside_an_array_job(here: Path, wait_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id, its element and its requeues are not this job's."""
    for name, value in {
        "JOB_ID": "99",
        "TASK_ID": "3",
        "TASK_COUNT": "8",
        "TASK_MIN": "0",
        "TASK_MAX": "7",
    }.items():
        monkeypatch.setenv(f"SLURM_ARRAY_{name}", value)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "5")
    job = sbatch_training(here / "run", (), here, os.environ)
    [attempt, *_] = wait_for(lambda: ledger.events(here / "run", event="attempt"), 60, "an attempt")
    assert attempt["job"] == job and "array_task" not in attempt and attempt["restart"] == 0
    assert submission.current_jobs(here / "run")["train"] == job


def test_variables_that_did_not_arrive_are_named(here: Path, wait_for: Any) -> None:
    options = ("--export=RECIPE=configs/tiny.yaml,MODULES=",)
    job = sbatch_training(here / "run", (), here, os.environ, *options)
    said = wait_for(lambda: out(here, job), 60, "the note")
    [line] = [line for line in said.splitlines() if line.startswith("note: sbatch --export=")]
    assert re.search(r"not set here: CLUSTER RUN SET MODULE_INIT VENV PROJECT$", line)


def out(folder: Path, job: str) -> str:
    path = folder / f"{job}.out"
    return path.read_text() if path.exists() else ""
