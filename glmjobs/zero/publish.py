"""A directory that is absent or whole: made beside, then renamed into place.

Work happens in ``.NAME.partial/new`` beside the target, under a lock: a second process with the same target is
told so at once. A process killed on the way leaves that folder behind; the next one takes it over. Where the
file system has no locks, each process works in a folder of its own, and what killed ones leave stays.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glmjobs.zero.manifest import read_manifest
from hpc.core.errors import BadInput, WorkFailed, of_system
from hpc.core.files import lock, sync_directory

LOCK = "lock"


@contextmanager
def publishing(target: Path, *, replace: bool = False, fsync: bool = True) -> Iterator[Path]:
    """An empty directory to fill; on leaving without an error it becomes ``target``, durably.

    Raises:
        BadInput: the parent does not exist or cannot be written; or ``target`` exists, and ``replace`` is
            false or it is neither empty nor a model directory with its manifest.
        WorkFailed: another process is writing ``target``, or the system refuses to.
    """
    _check_target(target, replace)
    parent = target.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        work, lock = _claim(target)
    except OSError as error:
        raise BadInput(f"{parent}: cannot write here: {error.strerror}") from None
    try:
        _check_target(target, replace)  # again: it may have come since, or been put back by _claim
        new = work / "new"
        new.mkdir()
        yield new
        if fsync:
            sync_directory(new)
        _rename(new, target, work / "old", replace)
        if fsync:
            sync_directory(parent)
    except OSError as error:
        if error.filename is not None:
            raise
        raise of_system(error, f"{target}: cannot be written: {error.strerror or error}") from None
    finally:
        _leave(work, target, lock)


def clean(target: Path) -> None:
    """Remove what a killed attempt at ``target`` left beside it (and put back what it was about to replace)."""
    if _folder(target).is_dir():
        with suppress(WorkFailed):  # one that is alive
            work, lock = _claim(target)
            _leave(work, target, lock)


def _folder(target: Path) -> Path:
    return target.parent / f".{target.name}.partial"


def _claim(target: Path) -> tuple[Path, int | None]:
    """An empty work folder for this process alone, and its lock (None where the file system has none)."""
    work = _folder(target)
    while True:
        work.mkdir(exist_ok=True)
        if work.is_symlink():
            raise BadInput(f"{work}: a link in the way of {target}; remove it")
        try:
            handle = os.open(work / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        except FileNotFoundError:
            continue  # its last owner has just removed it
        held = lock(handle, wait=False)
        if held and _is(handle, work / LOCK):
            _recover(work, target)
            _empty(work)
            return work, handle
        os.close(handle)
        if held is False:
            raise WorkFailed(f"{target}: another process is writing it at this moment")
        if held is None:
            shutil.rmtree(work, ignore_errors=True)
            return Path(tempfile.mkdtemp(prefix=f"{work.name}-", dir=target.parent)), None
        # else: of a folder that was removed before the lock was taken


def _is(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _leave(work: Path, target: Path, lock: int | None) -> None:
    """Give the work folder up; what could not be put back in its place is left in it."""
    _recover(work, target)
    if not os.path.lexists(work / "old") or os.path.lexists(target):
        with suppress(OSError):
            _empty(work)
            (work / LOCK).unlink(missing_ok=True)  # last: without it the folder is another process's
    if lock is not None:
        os.close(lock)
    with suppress(OSError):
        work.rmdir()  # after closing: NFS keeps the name of an open file until then


def _empty(work: Path) -> None:
    """Remove all in a work folder but its lock."""
    for left in work.iterdir():
        if left.name == LOCK:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()


def _recover(work: Path, target: Path) -> None:
    """Put back what a failed or killed attempt had moved out of the way."""
    if os.path.lexists(work / "old") and not os.path.lexists(target):
        with suppress(OSError):
            (work / "old").rename(target)


def _check_target(target: Path, replace: bool) -> None:
    if not os.path.lexists(target):
        return
    if not replace:
        raise BadInput(f"{target}: exists already")
    if not target.name or target.name == ".." or os.path.ismount(target):
        raise BadInput(f"{target}: cannot be replaced; name a directory of its own for the model")
    if not target.is_dir():
        raise BadInput(f"{target}: not a directory; only a model directory is replaced")
    if any(target.iterdir()):
        try:
            read_manifest(target)
        except BadInput:
            raise BadInput(
                f"{target}: not replaced, since it is no model directory of this command (no manifest.json); "
                "remove it yourself or name another"
            ) from None


def _rename(new: Path, target: Path, old: Path, replace: bool) -> None:
    try:
        if replace and os.path.lexists(target):
            target.rename(old)
        new.rename(target)
    except OSError as error:
        _recover(old.parent, target)
        kept = f"; what was there is {old}" if os.path.lexists(old) else ""
        raise of_system(error, f"{target}: cannot be put in place: {error.strerror}{kept}") from None
