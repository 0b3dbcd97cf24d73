"""The layers' contracts hold, and each of them bites: one wrong import, and lint-imports names the contract."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import REPO

BREAKS = [
    ("1.", "hpc/core/files.py", "import glmjobs.text"),
    ("2.", "hpc/slurm/client.py", "from hpc.chain import ledger as _"),
    ("3.", "glmjobs/zero/dtypes.py", "from glmjobs.run import locate as _"),
    ("4.", "glmjobs/data/rows.py", "from hpc.slurm import hostlist as _"),
    ("5.", "glmjobs/report.py", "from glmjobs import submit as _"),
    ("6.", "glmjobs/text.py", "import torch"),  # reached from status, submit and all the others
    ("6.", "glmjobs/status.py", "import torch"),
    ("7.", "glmjobs/run/state.py", "from glmjobs.run import read_state as _"),
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the contracts are about."""
    pytest.importorskip("importlinter")
    copy = tmp_path_factory.mktemp("project")
    for name in ("glmjobs", "hpc", "tests/support"):
        shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", copy)
    return copy


def lint_imports(project: Path) -> tuple[int, str]:
    """Exit code and output of lint-imports, its lines unbroken."""
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"], cwd=project,
        env={**os.environ, "PYTHONPATH": str(project), "COLUMNS": "300"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def test_they_hold(project: Path) -> None:
    code, said = lint_imports(project)
    assert code == 0 and "7 kept, 0 broken" in said, said


@pytest.mark.parametrize(("contract", "file", "line"), BREAKS, ids=lambda value: str(value)[:40])
def test_each_bites(project: Path, contract: str, file: str, line: str) -> None:
    path = project / file
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\n{line}\n", encoding="utf-8")
    try:
        code, said = lint_imports(project)
    finally:
        path.write_text(text, encoding="utf-8")
    broken = [row for row in said.splitlines() if row.endswith("BROKEN")]
    assert code == 1 and any(row.startswith(contract) for row in broken), said


def test_an_import_inside_a_function_is_allowed(project: Path) -> None:
    """A command imports torch when it runs, not when it is loaded."""
    path = project / "glmjobs/status.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(f"{text}\n\ndef later() -> None:\n    import torch\n", encoding="utf-8")
    try:
        code, said = lint_imports(project)
    finally:
        path.write_text(text, encoding="utf-8")
    assert code == 0, said
