"""Reading what somebody else wrote: only regular files are opened, and what is wrong with one is a single line.

A checkpoint may hold a pipe (opening it would wait forever), a device, a link out of it, or JSON nested a
million times. All files that :mod:`glmjobs.zero` reads are opened by ``open_regular``, and errors on the way
become one line by ``reading``.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from hpc.core.errors import BadInput, HpcError, WorkFailed, of_system

TEXT_LIMIT = (
    256 << 20
)  # bytes of a JSON or pointer file; an index of a million tensors has a hundred megabytes
DAMAGE = (
    ValueError, RecursionError, TypeError, LookupError, AttributeError, EOFError, OverflowError, RuntimeError,
    NotImplementedError, struct.error, re.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def open_handle(path: Path) -> int:
    """A descriptor to read a regular file with.

    Raises:
        OSError: it cannot be opened, or is a directory, pipe, socket or device.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would never return.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(0, "not a regular file", str(path))
    return handle


def open_regular(path: Path, buffering: int = -1) -> BinaryIO:
    """A regular file, open for reading bytes; errors as ``open_handle``'s."""
    return os.fdopen(open_handle(path), "rb", buffering)  # type: ignore[return-value]


def read_small(path: Path) -> bytes:
    """The bytes of a file that should be small.

    Raises:
        OSError: as ``open_handle``'s.
        ValueError: it is larger than TEXT_LIMIT.
    """
    with open_regular(path) as file:
        data = file.read(TEXT_LIMIT + 1)
    if len(data) > TEXT_LIMIT:
        raise ValueError(f"larger than {TEXT_LIMIT >> 20} MiB")
    return data


def read_json(path: Path) -> Any:
    """The content of a JSON file; to be called under ``reading``."""
    return json.loads(read_small(path).decode("utf-8"))


@contextmanager
def reading(path: Path, right: str, kind: type[HpcError] = WorkFailed) -> Iterator[None]:
    """What goes wrong in the block is ``kind``, in one line: the file, what is wrong, and what is ``right``."""
    try:
        yield
    except (HpcError, MemoryError):
        raise
    except FileNotFoundError:
        raise kind(f"{path}: missing; {right}") from None
    except OSError as error:
        words = f"{path}: cannot be read: {error.strerror or error}; {right}"
        raise (of_system(error, words) if kind is WorkFailed else kind(words)) from None
    except DAMAGE:
        raise kind(f"{path}: damaged; {right}") from None


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """An error of the system that nobody foresaw still is one line, with the file it is about."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        what = error.filename or error.filename2
        where = f"{os.fsdecode(what)[:300]}: " if isinstance(what, str | bytes | Path) else ""
        raise of_system(error, f"{where}{error.strerror or error}") from None


def inside(root: Path, name: str) -> Path:
    """``root / name`` for a name read from a file, if that stays inside ``root``.

    Raises:
        WorkFailed: it leads out, by "..", an absolute path or a symbolic link; or it is no file's name.
    """
    target = root / name
    try:
        within = target.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a zero byte, an unpaired surrogate
        raise WorkFailed(f"{root}: names a file that cannot be ({name[:80]!r}); refused") from None
    if not within:
        raise WorkFailed(f"{root}: names a file outside itself ({name[:80]!r}); refused")
    return target


def named(text: str) -> Path:
    """The path that a person wrote, if the system can take it.

    Raises:
        BadInput: it is empty or holds a zero byte.
    """
    if not text.strip():
        raise BadInput("an empty path; name a directory")
    if "\0" in text:
        raise BadInput(f"{text[:80]!r}: no path can hold a zero byte")
    return Path(text)
