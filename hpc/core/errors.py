"""What can go wrong and what the process then exits with: one tree for both packages.

Every error a person can cause is one of these: its text is one line saying what is wrong, where, and what would
be right. Command-line entry points print that line to stderr and exit with ``exit_code``; no traceback.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class HpcError(Exception):
    """Base of all of them. ``exit_code`` is what a command ends with."""

    exit_code = 1


class WorkFailed(HpcError):
    """The work itself failed (exit 1)."""

    exit_code = 1


class BadInput(HpcError, ValueError):
    """Something a person wrote, or a file they named, is wrong (exit 2). A ValueError, as pydantic's checks want it."""

    exit_code = 2


class NotFit(HpcError):
    """This machine or cluster cannot do what was asked (exit 3)."""

    exit_code = 3


NOT_ALLOWED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
"""Errors of the system that another place, or other permissions, mend."""


def of_system(error: OSError, text: str) -> HpcError:
    """An error of the system in these words: bad input where it is one of permissions, else work that failed."""
    return BadInput(text) if error.errno in NOT_ALLOWED else WorkFailed(text)


@contextmanager
def reading_what_was_named() -> Iterator[None]:
    """What a person names and may not read is bad input.

    Raises:
        BadInput: in place of a PermissionError.
    """
    try:
        yield
    except PermissionError as error:
        raise BadInput(f"{error.filename}: cannot be read: {error.strerror}") from None
