"""A Python that is too old for any of it says so in one line: CentOS 7's own are 2.7 and 3.6."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import REPO

FIRST = (REPO / "hpc" / "__init__.py", REPO / "glmjobs" / "__init__.py")
"""What `python -m` imports before any module of ours."""


def old_pythons() -> list[str]:
    names = ("python2", "python2.7", *(f"python3.{minor}" for minor in range(6, 10)))
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    others = [path / "bin" / "python" for path in versions.glob("*")] if versions.is_dir() else []
    found = {str(other) for other in others} | {path for name in names if (path := shutil.which(name))}
    asks = "import sys; sys.exit(sys.version_info >= (3, 10))"
    return sorted(f for f in found if subprocess.run([f, "-c", asks], capture_output=True).returncode == 0)


@pytest.mark.parametrize("python", old_pythons())
@pytest.mark.parametrize("module", ["glmjobs", "glmjobs.submit", "hpc.bootstrap", "hpc.devcluster"])
def test_an_old_python_says_what_is_needed(python: str, module: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([python, "-m", module], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 3 and not done.stdout
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: Python 3.10 or later is needed; {python} is ")


@pytest.mark.parametrize("path", FIRST, ids=lambda path: str(path.parent.name))
def test_the_first_file_is_readable_by_old_pythons(path: Path) -> None:
    """Where none is installed: nothing in it that Python 2.7 and 3.6 have no grammar for."""
    text = path.read_text(encoding="ascii")
    new = (ast.AnnAssign, ast.JoinedStr, ast.NamedExpr, ast.Match, ast.Starred, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text, feature_version=(3, 4))):
        assert not isinstance(node, new), ast.dump(node)
        assert not (isinstance(node, ast.ImportFrom) and node.module == "__future__"), "annotations: from 3.7 on"
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None and all(a.annotation is None for a in node.args.args), node.name
