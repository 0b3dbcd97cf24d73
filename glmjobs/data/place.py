"""Where prepared data may be written: in a directory that is one or can be made, and never over a file that was not
prepared there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from hpc.core.errors import NOT_ALLOWED, BadInput, HpcError, of_system
from hpc.core.files import read_json, write_atomic

MARKER = "prepare.json"
UNFINISHED = ".prepare-unfinished"
"""There while the files under their final names have no :data:`MARKER` yet: a killed process's are ours, too."""

_ELSEWHERE = "name another directory to write to (--out)"
_NO_PLACE = (*NOT_ALLOWED, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
"""Errors that say that the name is wrong; others (a full disk) are a state of the machine."""


def check_place(out: Path, source: object = None) -> None:
    """Nothing that is in ``out`` is lost when data are prepared there.

    Args:
        source: what is read; where it is a path, it must not be a file that would be written.

    Raises:
        BadInput: ``out`` can be no directory, or a file in it is the source or was not prepared there.
    """
    nearest = next(place for place in (out.absolute(), *out.absolute().parents) if os.path.lexists(place))
    if not nearest.is_dir():
        raise BadInput(f"{nearest}: not a directory; {_ELSEWHERE}")
    there = [out / name for name in ("train.jsonl", "dev.jsonl", MARKER) if os.path.lexists(out / name)]
    given = Path(source).expanduser() if isinstance(source, (str, Path)) else None
    if given is not None and any(_same(given, path) for path in there):
        raise BadInput(f"{given}: would be overwritten by what is prepared from it in {out}; {_ELSEWHERE}")
    ours = _prepared_here(out)
    foreign = next((path for path in there if path.name not in ours), None)
    if foreign is not None:
        raise BadInput(
            f"{foreign}: would be overwritten, and was not prepared there (no {MARKER} lists it); {_ELSEWHERE}, or "
            "move the file away"
        )


def make_place(out: Path) -> None:
    """The directory, with those above it.

    Raises:
        BadInput: there can be none of this name.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in _NO_PLACE:
            raise
        raise BadInput(f"{out}: cannot be made a directory: {error.strerror}; {_ELSEWHERE}") from None


def unwritable(out: Path, error: OSError) -> HpcError:
    """Why nothing can be written into a directory that is there: bad input where it may not be written to."""
    why = f"{out}: cannot write the prepared data: {error.strerror or error}"
    return of_system(error, f"{why}; {_ELSEWHERE}" if error.errno in NOT_ALLOWED else why)


def begin(out: Path) -> None:
    """The old data in ``out`` are gone from here on; the new ones are whole once :func:`finished` was called."""
    write_atomic(out / UNFINISHED, "")
    (out / MARKER).unlink(missing_ok=True)


def finished(out: Path) -> None:
    """The new :data:`MARKER` is written."""
    (out / UNFINISHED).unlink(missing_ok=True)


def _prepared_here(out: Path) -> set[str]:
    if os.path.lexists(out / UNFINISHED):
        return {"train.jsonl", "dev.jsonl", MARKER}
    record = read_json(out / MARKER) or {}
    files = record.get("files")
    if not isinstance(files, list) or "fingerprint" not in record:
        return set()
    return {MARKER, *(str(file.get("path")) for file in files if isinstance(file, dict))}


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
