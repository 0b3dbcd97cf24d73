"""A run whose files cannot be read is shown as that, and hides no other run; the system's errors are one line."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glmjobs import cancel, heal, logs, report, runs, status
from glmjobs.cli import run_command
from glmjobs.recipe.loading import load
from glmjobs.run import directory
from glmjobs.run.directory import Run, Shape
from glmjobs.run.locate import RunPath
from glmjobs.run.read_state import read_state
from hpc.batch.profile import Profile
from hpc.chain import ledger
from hpc.core import timestamps
from tests.support.paths import CONFIGS, REPO


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
    found = read_state(RunPath(good), ask_slurm=False)
    assert (found.state, found.get("preflight").state) == ("waiting", "done") and not found.stages[-1].job
