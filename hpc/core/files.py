"""Files that are never half there: atomic writes, locks, hashes, JSON and JSON lines.

Written beside, flushed to disk, renamed: readers see the old file or the whole new one, never a part. Standard
library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hpc.core import leases

Json = dict[str, Any]

CHUNK = 1 << 20
"""Bytes that are read and hashed at a time."""

_BESIDE = ".beside-"
_STALE_SECONDS = 6 * 3600


def beside(path: Path) -> Path:
    """A fresh name in the same directory, for a file or directory that will be renamed to ``path``."""
    return path.with_name(f"{_BESIDE}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def atomic_file(path: Path, *, mode: int = 0o666, durable: bool = True) -> Iterator[BinaryIO]:
    """A binary file that appears under ``path`` only when the block ends without an exception.

    Args:
        mode: the file's permissions, of which the umask is taken.
        durable: False leaves the flushing to the system; the file survives its process, but not a power cut.
    """
    temporary = beside(path)
    try:
        with open(temporary, "x+b", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
        if durable:
            sync_directory(path.parent)
    except OSError as error:
        if error.filename == str(temporary):  # a name that nobody knows
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: str | bytes, mode: int = 0o644, *, durable: bool = True) -> None:
    """Write a whole file by :func:`atomic_file`; its directory is made where it is missing."""
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path, mode=mode, durable=durable) as file:
            file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system that name no file (a write on a full disk) name ``path``."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Write a JSON document atomically, indented for people."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n", durable=durable)


def read_json(path: Path) -> Json | None:
    """A JSON object from a file, or None where it is absent or not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def read_jsonl(path: Path) -> Iterator[Json]:
    """The JSON objects of a file, one a line; lines that are not whole objects are passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield record


def sync_directory(path: Path) -> None:
    """Make a rename in ``path`` durable (a no-op where directories cannot be synced)."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def remove_stale(directory: Path) -> None:
    """Remove what killed writers left beside their targets, once it is old enough to be nobody's."""
    for left in directory.glob(f"{_BESIDE}*"):
        try:
            old = time.time() - left.stat().st_mtime > _STALE_SECONDS
        except OSError:
            continue
        if old and left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        elif old:
            left.unlink(missing_ok=True)


def lock(descriptor: int, *, wait: bool = True) -> bool | None:
    """Lock an open file for this process alone (flock(2)); the lock goes with the descriptor.

    Returns:
        True once it is held; False where another process holds it (without ``wait``); None on a file system that has
        no locks, as some parallel ones are mounted: what the lock guards has to be right without it, only later.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def exclusive(path: Path, *, patience: float | None = 0.0) -> Iterator[bool]:
    """Hold ``path`` as a lock file; yields False where another process kept it for ``patience`` seconds.

    The lock goes with the process that holds it, however that ends. On a file system that has no locks a second
    file stands for it (:mod:`hpc.core.leases`). ``patience`` None waits as long as it takes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + (patience or 0.0)
    try:
        held = lock(descriptor, wait=patience is None)
        while held is False and time.monotonic() < until:
            time.sleep(0.1)
            held = lock(descriptor, wait=False)
        if held is None:
            with leases.lease(path.with_name(f"{path.name}.held"), patience=patience) as leased:
                yield leased
        else:
            yield held
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; constant memory."""
    with path.open("rb", buffering=0) as file:
        return sha256_of(file)


def sha256_of(file: Any) -> str:
    """SHA-256 of what is left to read in an open, unbuffered binary file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    while count := file.readinto(buffer):
        digest.update(buffer[:count])
    return digest.hexdigest()


def newest_mtime(files: Iterable[Path]) -> float | None:
    """Unix seconds at which the last of the files was written; None where none of them can be looked at."""
    times = []
    for file in files:
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times, default=None)
