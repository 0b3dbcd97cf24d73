"""A job's number is put to Slurm in one place: there the answer is believed only if the job proves to be the run's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import REPO

BY_NUMBER = {"jobs", "listed", "shown", "show", "accounted", "_shown"}
ALLOWED = {
    "glmjobs/attach.py": {"show"},  # of the job that it runs in
    "hpc/chain/own_jobs.py": {"listed", "shown", "accounted"},
    "hpc/chain/submission.py": {"shown"},  # of a number that sbatch gave just now, to put its proof on record
}


def asks(path: Path) -> set[str]:
    """Which of the client's functions that take a number are called there as ``slurm.NAME``."""
    calls = [n.func for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    return {
        f.attr
        for f in calls
        if isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name) and f.value.id == "slurm"
    } & BY_NUMBER


@pytest.mark.parametrize("room", ["glmjobs", "hpc/chain"])
def test_numbers_are_asked_for_in_one_place(room: str) -> None:
    files = [path for path in (REPO / room).rglob("*.py") if "slurm" in path.read_text(encoding="utf-8")]
    assert len(files) > 3
    names = {path: str(path.relative_to(REPO)) for path in files}
    assert {names[p]: more for p in files if (more := asks(p) - ALLOWED.get(names[p], set()))} == {}
