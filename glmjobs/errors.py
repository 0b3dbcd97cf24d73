"""Errors of the layers that work without Slurm (models, data, zero, scoring) and of the stages built on them.

The same exit codes as :mod:`hpc.errors`, kept apart because these layers import nothing from ``hpc``. The text of
every error is one line: what, where, and what would be right.
"""

from __future__ import annotations


class GlmJobsError(Exception):
    """Base of this package's errors. ``exit_code`` is what a command ends with."""

    exit_code = 1


class WorkFailed(GlmJobsError):
    """The work itself failed (exit 1)."""

    exit_code = 1


class BadInput(GlmJobsError, ValueError):
    """Something a person wrote, or a file they named, is wrong (exit 2)."""

    exit_code = 2


class NotFit(GlmJobsError):
    """This machine cannot do what was asked (exit 3)."""

    exit_code = 3
