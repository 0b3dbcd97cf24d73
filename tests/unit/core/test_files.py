"""Files that are whole or not there; locks between processes, with patience, and where there are none."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hpc.core import files
from hpc.core.files import (
    CHUNK,
    atomic_file,
    exclusive,
    lock,
    newest_mtime,
    read_json,
    read_jsonl,
    remove_stale,
    sha256_file,
    write_atomic,
    write_json,
)

HOLD = """
import sys
from pathlib import Path
from hpc.core.files import exclusive
with exclusive(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""
WAIT = """
import fcntl, sys
from pathlib import Path
from hpc.core.files import exclusive

def told(descriptor, how, ask=fcntl.flock):
    print(how, flush=True)
    ask(descriptor, how)

fcntl.flock = told
with exclusive(Path(sys.argv[1]), patience=None) as held:
    with open(sys.argv[2], "a") as order:
        order.write(f"held {held}\\n")
"""


@pytest.fixture
def umask() -> Iterator[None]:
    """Others get nothing, the group may read."""
    before = os.umask(0o027)
    yield
    os.umask(before)


@contextmanager
def python(code: str, *words: object) -> Iterator[subprocess.Popen[str]]:
    """Another process; ended with the block."""
    command = [sys.executable, "-c", code, *map(str, words)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            yield other
        finally:
            other.kill()


def said(other: subprocess.Popen[str]) -> str:
    assert other.stdout is not None
    return other.stdout.readline().strip()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- locks


def test_lock_between_two_processes(tmp_path: Path) -> None:
    """Refused while another process holds it; given when that one ends, however it ends."""
    path = tmp_path / "lock"
    with python(HOLD, path) as other, path.open("w") as file:
        assert said(other) == "True"
        assert lock(file.fileno(), wait=False) is False
        other.kill()
        assert lock(file.fileno(), wait=True) is True
    with path.open() as again:
        assert lock(again.fileno(), wait=False) is True


def test_exclusive_without_patience(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "lock"
    with exclusive(path) as first, exclusive(path) as second:
        assert (first, second) == (True, False)
    with exclusive(path) as later:
        assert later is True
    assert mode(path) == 0o600


def test_exclusive_is_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given as soon as the other process lets go: here while we wait for the second try."""
    path = tmp_path / "lock"
    with python(HOLD, path) as other:
        assert said(other) == "True"
        waits: list[float] = []

        def let_go(seconds: float) -> None:
            waits.append(seconds)
            other.kill()
            other.wait()

        monkeypatch.setattr(files.time, "sleep", let_go)
        with exclusive(path, patience=3600) as held:
            assert held is True
        assert len(waits) == 1


def test_patience_ends(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive(path):
        start = time.monotonic()
        with exclusive(path, patience=0.3) as held:
            assert held is False
        assert time.monotonic() - start >= 0.3


def test_patience_without_end(tmp_path: Path) -> None:
    """None: the other process has it, and only after we have let it go."""
    path, order = tmp_path / "lock", tmp_path / "order"
    with path.open("w") as mine:
        assert lock(mine.fileno(), wait=False) is True
        with python(WAIT, path, order) as other:
            assert said(other) == str(fcntl.LOCK_EX), "it asks in a way that waits"
            order.write_text("let go\n")
            mine.close()
            assert other.wait(60) == 0
    assert order.read_text().splitlines() == ["let go", "held True"]


def test_no_locks_on_this_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with (tmp_path / "lock").open("w") as file:
        assert lock(file.fileno()) is lock(file.fileno(), wait=False) is None


# -- atomic writes


def test_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with atomic_file(path) as file:
        file.write(b"ne")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b"w")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("existing", [False, True])
def test_an_error_leaves_nothing_behind(tmp_path: Path, existing: bool) -> None:
    path = tmp_path / "file"
    if existing:
        path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="halfway"), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError("halfway")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"old"] if existing else [])


def test_a_target_that_cannot_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "folder", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_permissions(tmp_path: Path, umask: None) -> None:
    """The umask is taken of every mode: whoever shares a run, or does not, says so by it."""
    with atomic_file(tmp_path / "umask"):
        pass
    with atomic_file(tmp_path / "mode", mode=0o755):
        pass
    write_atomic(tmp_path / "folder" / "whole", "x")
    write_atomic(tmp_path / "secret", b"x", 0o600)
    modes = {p.name: mode(p) for p in tmp_path.rglob("*") if p.is_file()}
    assert modes == {"umask": 0o640, "mode": 0o750, "whole": 0o640, "secret": 0o600}


@pytest.mark.parametrize(("durable", "flushes"), [(True, 2), (False, 0)])
def test_durable_flushes_the_file_and_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool, flushes: int
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    write_atomic(tmp_path / "file", "x", durable=durable)
    assert len(flushed) == flushes
    assert (tmp_path / "file").read_text() == "x"


def test_what_a_killed_writer_left_goes_once_it_is_old(tmp_path: Path) -> None:
    """A fresh file may still have its writer; other people's files are nobody's to remove."""
    code = """
import os, sys
from pathlib import Path
from hpc.core.files import atomic_file
with atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path / "file"], check=False).returncode == -9
    (left,) = tmp_path.iterdir()
    old_folder, old_other = files.beside(tmp_path / "folder"), tmp_path / "old"
    old_folder.mkdir()
    (old_folder / "inside").touch()
    old_other.touch()
    for path in (old_folder, old_other):
        os.utime(path, (0, 0))
    remove_stale(tmp_path)
    assert set(tmp_path.iterdir()) == {left, old_other}
    os.utime(left, (0, 0))
    remove_stale(tmp_path)
    assert list(tmp_path.iterdir()) == [old_other]


# -- what is read


def test_json_that_is_absent_broken_or_no_object(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    assert read_json(path) is None
    for text in ('{"half": ', "[1]", "null", "\udcff", '{"a": ' + "[" * 100_000):
        path.write_bytes(text.encode(errors="surrogateescape"))
        assert read_json(path) is None
    write_json(path, {"a": "题"})
    assert read_json(path) == {"a": "题"} and "题" in path.read_text(encoding="utf-8")


def test_json_lines_pass_over_what_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    assert list(read_jsonl(path)) == []
    path.write_bytes(b'{"a": 1}\n[2]\nnot json\n' + b"[" * 100_000 + b'\n\xff\xfe\n{"a": 3}\n{"a": ')
    assert list(read_jsonl(path)) == [{"a": 1}, {"a": 3}]


def test_hash_of_more_than_one_chunk(tmp_path: Path) -> None:
    data = os.urandom(CHUNK + 7)
    (tmp_path / "file").write_bytes(data)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_newest_of_files(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert newest_mtime([first]) is None
    for path, seconds in ((first, 20), (second, 10)):
        path.touch()
        os.utime(path, (seconds, seconds))
    assert newest_mtime([second, first, tmp_path / "absent"]) == 20.0
