"""Whoever reads a command's output may go away: `| head -1` ends it quietly, whichever command it is."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hpc.core.command import READER_GONE
from tests.support.paths import REPO

TYPED = ["hpc.lint", "hpc.devcluster", "hpc.doctor", "hpc.bootstrap", "glmjobs"]
INSIDE_JOBS = {
    "hpc/runtime/local_launch.py", "hpc/runtime/attempt.py", "hpc/localchain.py", "hpc/chain/local.py", "hpc/ranks.py",
    "hpc/attempt.py", "hpc/health/allreduce.py", "hpc/health/libraries.py", "glmjobs/run/lengths.py",
}  # fmt: skip
"""Started by scripts and commands, which read or keep their output."""


def entries() -> list[Path]:
    """Every module that is run by itself."""
    found = [p for room in ("hpc", "glmjobs") for p in sorted((REPO / room).rglob("*.py"))]
    return [p for p in found if '__name__ == "__main__"' in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", entries(), ids=lambda p: str(p.relative_to(REPO)))
def test_every_command_goes_through_the_one_place(path: Path) -> None:
    calls = {
        getattr(n.func, "id", "")
        for n in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(n, ast.Call)
    }
    assert ("run_command" in calls) is (str(path.relative_to(REPO)) not in INSIDE_JOBS)


def closed_pipe(words: list[str], *, both: bool = False) -> subprocess.CompletedProcess[str]:
    """A command whose stdout (and stderr) nobody reads: its first write meets a broken pipe."""
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, *words], stdout=writer, stderr=writer if both else subprocess.PIPE, cwd=REPO,
            check=False, encoding="utf-8", env={**environ, "PYTHONPATH": str(REPO)},
        )  # fmt: skip
    finally:
        os.close(writer)


@pytest.mark.parametrize("module", TYPED)
def test_nobody_reads_the_help(module: str) -> None:
    done = closed_pipe(["-m", module, "--help"])
    assert (done.returncode, done.stderr) == (READER_GONE, "")


def test_nobody_reads_findings_or_a_list(tmp_path: Path) -> None:
    script = tmp_path / "x.sh"
    script.write_text("srun a | tee b\n" * 2000, encoding="utf-8")
    done = closed_pipe(["-m", "hpc.lint", str(script)])
    assert (done.returncode, done.stderr) == (READER_GONE, "")
    assert closed_pipe(["-m", "glmjobs", "template"], both=True).returncode == READER_GONE


def test_nobody_reads_an_error() -> None:
    assert importlib.util.find_spec("hpc.lint") is not None
    assert closed_pipe(["-m", "hpc.lint", "/no/such/file"], both=True).returncode == READER_GONE
