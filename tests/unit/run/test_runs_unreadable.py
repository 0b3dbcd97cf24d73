"""A run whose files cannot be read is shown as that, and hides no other run; the system's errors are one line."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from glmjobs import cancel, heal, logs, report, runs, status
from glmjobs.cli import run_command
from glmjobs.recipe.loading import load
from glmjobs.run import directory
from glmjobs.run.directory import Run, Shape
from glmjobs.run.locate import RunPath
from glmjobs.run.read_state import read_state, read_states
from glmjobs.run.state import STAGES
from glmjobs.terminal.tables import render
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core import timestamps
from tests.support.paths import CONFIGS, REPO
from tests.support.tracked import made_run


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good run and one whose ledger is a directory, as after a mistaken copy."""
    monkeypatch.chdir(tmp_path)
    for name in ("bad", "good"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.yaml").write_text("{}\n")
    (tmp_path / "runs" / "bad" / "ledger.jsonl").mkdir()
    return tmp_path


@pytest.mark.parametrize("command", [runs.main, status.main])
def test_an_unreadable_run_hides_no_other(
    two: Path, command: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(command, []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("bad") and "unreadable" in line for line in lines)
    assert any(line.startswith("good") and "waiting" in line for line in lines)
    assert run_command(command, ["--json"]) == 0
    assert {s["state"] for s in json.loads(capsys.readouterr().out)} == {"unreadable", "waiting"}


def test_a_closed_folder_is_listed(
    two: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """(root may look into every folder: the system's answer is given in its place.)"""
    closed, usual = two / "runs" / "bad", Path.stat

    def stat(self: Path, **more: Any) -> os.stat_result:
        if self.parent == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return usual(self, **more)

    monkeypatch.setattr(Path, "stat", stat)
    assert run_command(runs.main, []) == 0
    assert any(
        line.startswith("bad") and "unreadable" in line for line in capsys.readouterr().out.splitlines()
    )


def test_one_unreadable_run_is_one_line(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(status.main, ["bad"]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "ledger.jsonl: Is a directory" in said


@pytest.mark.parametrize("command", [status.main, logs.main, cancel.main, heal.main, report.main])
@pytest.mark.parametrize("name", ["", "x" * 5000, "a\nb", "a\0b", "..", "no/such"])
def test_names_that_no_run_has_are_one_short_line(
    two: Path, command: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(command, ["--", name]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 500 and "no run of this name" in said


def test_a_closed_stdout_is_no_crash(two: Path) -> None:
    (two / "runs" / "good" / "jobs" / "train").mkdir(parents=True)
    (two / "runs" / "good" / "jobs" / "train" / "1.out").write_text("hello\n")
    line = f"exec {sys.executable} -m glmjobs.logs good --stage train >&-"
    project = str(REPO)
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=two,
        env={**os.environ, "PYTHONPATH": project},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_leaves_no_empty_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run.yaml")

    recipe = load(CONFIGS / "tiny.yaml")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(directory, "write_atomic", full)
        Run.create(tmp_path / "one", recipe, Profile(), Shape())
    assert not (tmp_path / "one").exists()
    assert Run.create(tmp_path / "one", recipe, Profile(), Shape()).path.is_dir(), "the name is free again"


def test_a_path_that_is_no_text_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def writes(argv: list[str] | None) -> int:
        "/scratch/\udcff".encode()
        return 0

    assert run_command(writes, []) == 2
    assert capsys.readouterr().err == "error: '/scratch/\\udcff': not UTF-8 text; take another name\n"


def test_a_full_disk_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def full(argv: list[str] | None) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/x")

    def ours(argv: list[str] | None) -> int:
        raise FileNotFoundError(errno.ENOENT, "a mistake of the program", "/y")

    assert run_command(full, []) == 1
    assert (
        capsys.readouterr().err
        == "error: /scratch/x: No space left on device; make room there, then do this again\n"
    )
    with pytest.raises(FileNotFoundError):
        run_command(ours, [])


def test_a_lost_ledger_is_not_called_done(two: Path) -> None:
    good = two / "runs" / "good"
    ledger.write_marker(good, "preflight", outcome="done", started=timestamps.now())
    (found,) = read_states([RunPath(good)], ask_slurm=False)
    assert (found.state, found.get("preflight").state) == ("waiting", "done") and not found.stages[-1].job


def test_a_broken_run_yaml_is_called_broken(tmp_path: Path) -> None:
    """Whatever the markers say: no stage could read it any more. One that runs has read it before."""
    run = made_run(tmp_path / "run")
    for stage in STAGES:
        ledger.write_marker(run.path, stage, outcome="done", started=timestamps.now())
    assert (done := read_state(run, ask_slurm=False)).state == "done" and done.broken == ""
    whole = (run.path / "run.yaml").read_text()
    for text in ("", "{", "name: 3\n", whole.replace("learning_rate: 0.002", "learning_rate: fast")):
        (run.path / "run.yaml").write_text(text)
        found = read_state(RunPath(run.path), ask_slurm=False)
        assert found.state == "broken" and "run.yaml" in found.broken and "\n" not in found.broken
        console = Console(width=300, record=True, file=io.StringIO())
        console.print(render(found))
        assert "broken   " in (shown := console.export_text()) and "put it back as it was" in shown
    ledger.append(run.path, "attempt", stage="train", job=f"local-{os.getpid()}", attempt=1, pid=os.getpid())
    (run.path / "stages" / "train.json").unlink()
    assert read_state(RunPath(run.path), ask_slurm=False).state == "running"


def test_a_training_that_ended_early_says_so(tmp_path: Path) -> None:
    run = made_run(tmp_path / "run")
    why = "no dev loss better than 2.1 at step 300 in 3 evaluations (train.early_stop)"
    run.mark("train", started=timestamps.now(), figures={"step": 600, "ended_early": why})
    train = read_state(run, ask_slurm=False).get("train")
    assert train.state == "done" and train.reason == f"ended early: {why}"
    run.mark("train", started=timestamps.now(), figures={"step": 600, "ended_early": None})
    assert read_state(run, ask_slurm=False).get("train").reason == ""
