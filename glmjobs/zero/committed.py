"""Committed checkpoints: a ``checkpoint-N`` counts only when every file of it is known to be on disk.

DeepSpeed writes ``latest`` from rank 0 before the other ranks are done, so it proves nothing. ``committed.json`` is
written last, after a barrier of all ranks, and lists every file with its size; without it, or with a file missing or
of another size, a checkpoint is passed over, and resume says so. It is written and read here alone, for training,
consolidation, resharding and the report; what it says is not trusted. No torch here.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glmjobs.zero.guarded_files import inside, read_json, reading
from hpc.core import timestamps
from hpc.core.errors import BadInput, HpcError, WorkFailed
from hpc.core.files import write_json

COMMITTED = "committed.json"
FLUSHING = ".flushing-"
"""With a node's name: grows while that node flushes, see :func:`sync`."""


@dataclass(frozen=True)
class Commit:
    """What a ``committed.json`` says.

    Attributes:
        files: bytes of every file, by its path below the folder.
        step, world_size: of the training that saved it, and its number of ranks; None where it does not say.
    """

    files: dict[str, int]
    step: int | None = None
    world_size: int | None = None


@dataclass(frozen=True)
class SavedCheckpoint:
    """A ``checkpoint-N`` directory: its step, and why it does not count (None: it does)."""

    path: Path
    step: int
    problem: str | None


def commit(path: Path, step: int | None = None, world_size: int | None = None) -> None:
    """Declare a folder whole. Call on one rank, after a barrier, when every rank's files are written and synced."""
    files = [{"path": str(f.relative_to(path)), "bytes": f.stat().st_size} for f in _files(path)]
    told = {"step": step, "world_size": world_size}
    said = {key: value for key, value in told.items() if value is not None}
    write_json(path / COMMITTED, {**said, "time": timestamps.now(), "files": files})


def read(path: Path) -> Commit | None:
    """What the folder's ``committed.json`` says, unchecked; None where there is none.

    Raises:
        WorkFailed: it cannot be read, is damaged, or is a link out of the folder.
    """
    file = path / COMMITTED
    if not os.path.lexists(file):
        return None
    with reading(file, "it should list the checkpoint's files with their sizes"):
        said = read_json(inside(path, COMMITTED))
        files = {str(entry["path"]): int(entry["bytes"]) for entry in said["files"]}
        step, world_size = said.get("step"), said.get("world_size")
        if any(type(value) not in (int, type(None)) for value in (step, world_size)):
            raise TypeError
    return Commit(files, step, world_size)


def check(path: Path) -> Commit | None:
    """Hold a folder against its ``committed.json``; what that says, None where there is none.

    Raises:
        WorkFailed: a listed file is missing, of another size or outside the folder; or as :func:`read`.
    """
    listed = read(path)
    for name, size in listed.files.items() if listed is not None else ():
        file = inside(path, name)
        if not file.is_file():
            raise WorkFailed(f"{file}: is missing, though {COMMITTED} lists it")
        if (found := file.stat().st_size) != size:
            raise WorkFailed(f"{file}: has {found} bytes instead of the {size} that were committed")
    return listed


def problem(path: Path) -> str | None:
    """Why a checkpoint does not count, in words; None where it does."""
    try:
        listed = check(path)
    except HpcError as error:
        return str(error).removeprefix(f"{path}{os.sep}")
    return None if listed is not None else "not committed (the save did not finish)"


def folders(checkpoints: Path) -> list[tuple[int, Path]]:
    """Step and path of every ``checkpoint-N``, newest first, committed or not."""
    found = []
    for path in checkpoints.glob("checkpoint-*") if checkpoints.is_dir() else ():
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder is closed
            found.append((int(match[1]), path))
    return sorted(found, reverse=True)


def scan(checkpoints: Path) -> list[SavedCheckpoint]:
    """Every ``checkpoint-N``, newest first, each checked."""
    return list(_checked(checkpoints))


def newest(checkpoints: Path) -> SavedCheckpoint | None:
    """The newest checkpoint that counts; older ones are not looked at."""
    return next((c for c in _checked(checkpoints) if c.problem is None), None)


def newest_committed(checkpoints: Path) -> Path:
    """The newest checkpoint with a ``committed.json``, which has to be whole: an older one would be less training.

    Newer ones without are named on stdout and skipped.

    Raises:
        BadInput: there is none.
        WorkFailed: the newest does not hold what it committed.
    """
    for _, path in folders(checkpoints):
        if check(path) is not None:
            return path
        print(f"{path.name}: skipped, it was never committed (its save did not finish)", flush=True)
    raise BadInput(
        f"{checkpoints}: no committed checkpoint here (checkpoint-N with {COMMITTED}); train first"
    )


def _checked(checkpoints: Path) -> Iterator[SavedCheckpoint]:
    return (SavedCheckpoint(path, step, problem(path)) for step, path in folders(checkpoints))


SYNC_BYTES = 256 << 20
"""Flushed at a time, so that the flushing of a large file can be seen to go on."""


def sync(path: Path) -> None:
    """Flush every file below ``path`` to disk. Each node syncs what its ranks wrote; syncing twice costs nothing.

    A node's memory may hold all of a checkpoint when its files have their full size; then this is where the time goes.
    Meanwhile a file beside them grows by a byte with each piece, for those who judge by growth; it is gone at the end.
    """
    seen = path / f"{FLUSHING}{socket.gethostname()}"
    try:
        for file in _files(path):
            descriptor = os.open(file, os.O_RDWR)
            try:
                size = os.fstat(descriptor).st_size
                for start in range(0, size - SYNC_BYTES, SYNC_BYTES):
                    with mmap.mmap(descriptor, SYNC_BYTES, offset=start) as piece:
                        piece.flush()
                    with (
                        contextlib.suppress(OSError),
                        seen.open("ab") as beat,
                    ):  # a full disk: the sync says so
                        beat.write(b".")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    finally:
        with contextlib.suppress(OSError):
            seen.unlink(missing_ok=True)


def rotate(folder: Path, keep: int, spare: int | None = None) -> list[Path]:
    """Delete all but the newest ``keep`` (≥ 1) checkpoints that count, and the broken ones older than the newest.

    A broken one newer than every good one is left: it may be evidence, and the next save of its step replaces it.

    Args:
        spare: step of one more that is kept.
    """
    checked = scan(folder)
    good = [c for c in checked if c.problem is None]
    if not good:
        return []
    broken = [c for c in checked if c.problem is not None and c.step < good[0].step]
    doomed = [c for c in good[max(1, keep) :] if c.step != spare] + broken
    for checkpoint in doomed:
        discard(checkpoint.path, ignore_errors=True)
    return [c.path for c in doomed]


def discard(path: Path, *, ignore_errors: bool = False) -> None:
    """Delete a checkpoint, if it is there: first its list, so that an interruption leaves nothing that looks whole."""
    (path / COMMITTED).unlink(missing_ok=True)
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=ignore_errors)


def size(path: Path) -> int:
    """Bytes of a checkpoint's files."""
    return sum(f.stat().st_size for f in _files(path))


def _files(path: Path) -> Iterator[Path]:
    return (
        f
        for f in sorted(path.rglob("*"))
        if f.name != COMMITTED and not f.name.startswith(FLUSHING) and f.is_file()
    )
