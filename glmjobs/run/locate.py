"""Where runs are, and how one is found: by path, or by its name; nothing of a run is read for that."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from glmjobs.text import visible
from hpc.core.errors import BadInput

RUNS = "runs"


@dataclass(frozen=True)
class RunPath:
    """A run directory."""

    path: Path


def parent() -> Path:
    """Where runs are: ``$GLMJOBS_RUNS``, or ``runs/`` of the current directory."""
    return Path(os.environ.get("GLMJOBS_RUNS") or RUNS).absolute()


def directories() -> list[RunPath]:
    """All runs there, oldest first."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in parent().iterdir():
            try:
                made = (path / "run.yaml").stat().st_mtime
            except PermissionError:  # another user's, closed: it is listed as unreadable
                made = 0.0
            except OSError:  # no run, or removed this very moment
                continue
            found.append((made, path.name, path))
    return [RunPath(path) for _, _, path in sorted(found)]


def locate(where: str) -> RunPath:
    """A run by path, or by its name under ``runs/``.

    Raises:
        BadInput: there is none; the line names those that are there.
    """
    given = Path(where)
    named = [] if given.is_absolute() or len(given.parts) > 1 else [parent() / given]
    for path in (*named, given):
        with contextlib.suppress(OSError, ValueError):  # no name that a file could have
            if (path / "run.yaml").is_file():
                return RunPath(path.absolute())
    known = [place.path.name for place in directories()]
    others = f" and {len(known) - 5} older ones" if len(known) > 5 else ""
    hint = f"runs here: {', '.join(known[-5:])}{others}" if known else f"there are no runs under {parent()}"
    shown = visible(where if len(where) <= 200 else f"{where[:200]}…")
    raise BadInput(f"{shown}: no run of this name or path (a directory with run.yaml); {hint}")
