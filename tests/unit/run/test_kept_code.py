"""The code that a run's jobs run: kept when it was submitted, shared by content, renewed when asked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hpc.chain import frozen
from hpc.core.errors import BadInput
from tests.support.paths import REPO


def make(folder: Path, text: str = "x = 1\n") -> Path:
    package = folder / "pack"
    (package / "inner" / "__pycache__").mkdir(parents=True)
    (package / "inner" / "m.py").write_text(text)
    (package / "inner" / "__pycache__" / "m.cpython-311.pyc").write_bytes(b"compiled")
    (package / ".swp").write_text("an editor's")
    return package


def test_a_copy_is_named_after_its_content(tmp_path: Path) -> None:
    package = make(tmp_path / "code")
    first = frozen.freeze([package], tmp_path / "kept", {"REVISION": "abc"})
    assert sorted(p.relative_to(first).as_posix() for p in first.rglob("*") if p.is_file()) == [
        "REVISION",
        "pack/inner/m.py",
    ]
    written = (first / "pack/inner/m.py").stat().st_mtime_ns
    assert frozen.freeze([package], tmp_path / "kept", {"REVISION": "def"}) == first
    assert (first / "pack/inner/m.py").stat().st_mtime_ns == written, "not written twice"
    (package / "inner" / "m.py").write_text("x = 2\n")
    second = frozen.freeze([package], tmp_path / "kept")
    assert second != first and (first / "pack/inner/m.py").read_text() == "x = 1\n"
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == sorted([first.name, second.name])


def test_two_at_once_make_one(tmp_path: Path) -> None:
    package, found = make(tmp_path / "code"), []
    threads = [
        threading.Thread(target=lambda: found.append(frozen.freeze([package], tmp_path / "kept")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 8 and len(set(found)) == 1
    assert [p.name for p in (tmp_path / "kept").iterdir()] == [found[0].name]


def test_no_room_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file in the way")
    with pytest.raises(BadInput, match=r"kept.*: cannot keep a copy of the code: Not a directory"):
        frozen.freeze([make(tmp_path / "code")], tmp_path / "kept")


def test_the_copy_runs_by_itself(tmp_path: Path) -> None:
    """As a job runs it: from its folder, which is first on Python's path."""
    copy = frozen.freeze(
        [REPO / name for name in ("hpc", "glmjobs", "configs", "sbatch")], tmp_path, {"REVISION": "v1"}
    )
    script = (
        "import glmjobs, hpc; from glmjobs.run.kept_code import revision; "
        "from hpc.core.resources import resource; "
        "print(glmjobs.__file__, hpc.__file__, revision(), resource('configs/tiny.yaml', 'glmjobs').is_file())"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=copy, env={**os.environ, "PYTHONPATH": str(copy)}, text=True,
        capture_output=True, check=True,
    ).stdout.split()  # fmt: skip
    assert said == [f"{copy}/glmjobs/__init__.py", f"{copy}/hpc/__init__.py", "v1", "True"]
