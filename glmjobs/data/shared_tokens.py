"""Tokenised data that several runs have in common: made once, one copy on disk, hard-linked into each run.

The folder beside the runs holds the same directories as theirs (:mod:`glmjobs.data.tokenised`), whose names say what
they were made of. Files are never changed once they are there, so whoever is deleted leaves the others whole. The
folder helps where it can: on a file system without hard links, or where it is another user's, each run makes its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from hpc.core.files import beside, exclusive, remove_stale, sync_directory


def usable(folder: Path | None) -> Path | None:
    """The folder, made where it is not there (mode 0700: rows are as private as a run); None where it cannot be
    used."""
    if folder is None:
        return None
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder if os.access(folder, os.R_OK | os.W_OK | os.X_OK) and folder.is_dir() else None


@contextlib.contextmanager
def making(folder: Path, name: str) -> Iterator[None]:
    """One process at a time makes what is called ``name``; the others wait, and find it made."""
    with exclusive(folder / f".{name}.lock", patience=None):
        yield


def link(there: Path, place: Path) -> bool:
    """Hard-link a whole directory's files to ``place``, which appears whole or not at all; whether it is there now."""
    temporary = beside(place)
    try:
        temporary.mkdir(parents=True)
        for file in there.iterdir():
            os.link(file, temporary / file.name)
        temporary.rename(place)
        sync_directory(place.parent)
    except OSError:  # no hard links here, or the original was just removed
        return place.is_dir()
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return True


def give(place: Path, folder: Path) -> None:
    """Have a run's directory in the folder, too, and take out of it what no run has any more."""
    remove_stale(folder)
    for entry in folder.glob("tokenised-*"):
        with contextlib.suppress(OSError):
            if all(file.stat().st_nlink == 1 for file in entry.iterdir()):
                shutil.rmtree(entry, ignore_errors=True)
    link(place, folder / place.name)
