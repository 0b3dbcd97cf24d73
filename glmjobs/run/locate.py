"""Where runs are, and how one is found: by path, or by its name; nothing of a run is read for that."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from glmjobs.text import visible
from hpc.core.errors import BadInput
from hpc.core.files import Json, read_json

RUNS = "runs"
SENT = ".elsewhere"
"""The folder of the files about runs that were sent to a cluster over ssh, beside the runs of this machine."""


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


def sent_record(run: str) -> Path:
    """The file about a run that was sent to a cluster over ssh (:mod:`glmjobs.run.elsewhere`)."""
    return parent() / SENT / f"{run}.json"


def sent(where: str) -> Json | None:
    """What is known of a run that was sent, by its name; None: it was not."""
    with contextlib.suppress(ValueError):  # no name that a file could have
        return read_json(sent_record(Path(where).name))
    return None


def sent_to(where: str) -> str:
    """What is said of a run that was sent, where a command needs its files; "" of any other."""
    place = (sent(where) or {}).get("place")
    if place is None:
        return ""
    return f"{where}: this run is on {place['login']}: log in there, and do this in {place['directory']}"


def locate(where: str) -> RunPath:
    """A run by path, or by its name under ``runs/``.

    Raises:
        BadInput: there is none; the line names those that are there.
    """
    given = Path(where)
    named = [] if given.is_absolute() or len(given.parts) > 1 else [parent() / given]
    closed = None
    for path in (*named, given):
        try:
            if (path / "run.yaml").is_file():
                return RunPath(path.absolute())
        except PermissionError:
            closed = closed or path
        except (OSError, ValueError):  # no name that a file could have
            continue
    if closed is not None:
        raise BadInput(
            f"{closed}: this run cannot be read: Permission denied; its owner may share it (jobs.share)"
        )
    known = [place.path.name for place in directories()]
    others = f" and {len(known) - 5} older ones" if len(known) > 5 else ""
    hint = f"runs here: {', '.join(known[-5:])}{others}" if known else f"there are no runs under {parent()}"
    shown = visible(where if len(where) <= 200 else f"{where[:200]}…")
    if elsewhere := sent_to(where):
        raise BadInput(elsewhere)
    raise BadInput(f"{shown}: no run of this name or path (a directory with run.yaml); {hint}")
