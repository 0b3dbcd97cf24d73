"""A directory that is absent or whole: made beside, then renamed into place.

Work happens in ``.NAME.partial-XXXX/new`` beside the target. A process killed on the way leaves that folder
behind; the next one that publishes the same target removes it, unless its lock says that its maker still
lives.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glmjobs.errors import BadInput, WorkFailed


@contextmanager
def publishing(target: Path, *, replace: bool = False, fsync: bool = True) -> Iterator[Path]:
    """An empty directory to fill; on leaving without an error it becomes ``target``, durably.

    Raises:
        BadInput: the parent does not exist or cannot be written, or ``target`` exists and ``replace`` is
            false.
    """
    if os.path.lexists(target) and not replace:
        raise BadInput(f"{target}: exists already")
    parent = target.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        clean(target)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=parent))
    except OSError as error:
        raise BadInput(f"{parent}: cannot write here: {error.strerror}") from None
    lock = _take_lock(work)
    try:
        new = work / "new"
        new.mkdir()
        yield new
        if fsync:
            _sync(new)
        _rename(new, target, work / "old", replace)
        if fsync:
            _sync(parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def clean(target: Path) -> list[Path]:
    """Remove what killed attempts at ``target`` left beside it; the folders removed."""
    removed = []
    for left in sorted(target.parent.glob(f".{target.name}.partial-*")):
        lock = _take_lock(left)
        if lock is None:
            continue
        shutil.rmtree(left, ignore_errors=True)
        os.close(lock)
        removed.append(left)
    return removed


def _take_lock(work: Path) -> int | None:
    """Lock a work folder; None where its maker holds it or the file system has no locks."""
    handle = None
    try:
        handle = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if handle is not None:
            os.close(handle)
        return None
    return handle


def _rename(new: Path, target: Path, old: Path, replace: bool) -> None:
    try:
        if replace and os.path.lexists(target):
            target.rename(old)
        new.rename(target)
    except OSError as error:
        raise WorkFailed(f"{target}: cannot be put in place: {error.strerror}") from None


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except (
        OSError
    ):  # some network file systems refuse to sync a directory; the rename is as durable as they make it
        pass
    finally:
        os.close(handle)
