"""One at a time where the file system has no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpc.core import leases
from hpc.core.files import exclusive

HOLD = """
import fcntl, sys, time
from pathlib import Path
from hpc.core.files import exclusive
def none(*args):
    raise OSError(38, "Function not implemented")
fcntl.flock = none
with exclusive(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refused)


def holder(path: Path) -> subprocess.Popen[str]:
    made = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert made.stdout is not None and made.stdout.readline() == "True\n"
    return made


def test_one_at_a_time(no_locks: None, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path) as first, exclusive(path) as second:
        assert (first, second) == (True, False)
    with exclusive(path) as later:
        assert later is True
    assert [p.name for p in tmp_path.iterdir()] == ["lock"], "nothing is left"


def test_between_processes(no_locks: None, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as other:
        with exclusive(path, patience=0.3) as held:
            assert held is False
        other.kill()
        other.wait()
        with exclusive(path) as held:
            assert held is True, "its holder is dead"


def test_a_holder_of_another_machine(no_locks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alive so long as its file is touched, however its clock is set; taken over when it isn't."""
    monkeypatch.setattr(leases, "DEAD_SECONDS", 0.5)
    path = tmp_path / "lock.held"
    path.write_text("othernode 1 0f\n")
    os.utime(path, (1, 1))
    begun = time.monotonic()

    def touched(seconds: float) -> None:
        if time.monotonic() - begun < 1.5:
            os.utime(path)
        real(seconds)

    real = time.sleep
    monkeypatch.setattr(leases.time, "sleep", touched)
    with exclusive(tmp_path / "lock", patience=60) as held:
        assert held is True and time.monotonic() - begun >= 1.5


def test_who_was_taken_for_dead_takes_nothing_away(no_locks: None, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path) as held:
        assert held is True
        (tmp_path / "lock.held").write_text("othernode 1 0f\n")
    assert (tmp_path / "lock.held").read_text() == "othernode 1 0f\n"
