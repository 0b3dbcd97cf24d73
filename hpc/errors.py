"""What can go wrong and what the process then exits with.

Every error a person can cause is one of these: its text is one line saying what is wrong, where, and what would
be right. Command-line entry points print that line to stderr and exit with ``exit_code``; no traceback.
"""

from __future__ import annotations


class HpcError(Exception):
    """Base of this package's errors. ``exit_code`` is what a command ends with."""

    exit_code = 1


class JobFailed(HpcError):
    """The work itself failed (exit 1)."""

    exit_code = 1


class BadInput(HpcError):
    """Something a person wrote is wrong (exit 2)."""

    exit_code = 2


class NotFit(HpcError):
    """This machine or cluster cannot do what was asked (exit 3)."""

    exit_code = 3
