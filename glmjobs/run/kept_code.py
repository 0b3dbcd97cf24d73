"""Which code a run's jobs run: a copy of when it was submitted (:mod:`hpc.chain.frozen`), until heal takes today's."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

from glmjobs import __version__
from hpc.chain import frozen, ledger
from hpc.core.resources import TOP, checkout

FOLDER = ".code"
"""Beside the runs: copies of the code, by content."""

FOLDERS = ("hpc", "glmjobs", "configs", "sbatch")
"""Of a checkout; installed packages carry the last two themselves."""


def keep(run: Path) -> Path:
    """Have a run's jobs run today's code, whatever becomes of it; the copy's path.

    Raises:
        BadInput: the copy cannot be made.
    """
    today = revision()
    notes = {"REVISION": today, **({"changes.diff": diff} if (diff := _uncommitted()) else {})}
    copy = frozen.freeze(_folders(), run.parent / FOLDER, notes)
    if kept(run) != copy:
        ledger.append(run, "code", path=str(copy), revision=today)
    return copy


def place(runs: Path) -> Path:
    """Where :func:`keep` would keep today's code for a run in this folder. Writes nothing."""
    return frozen.place(_folders(), runs / FOLDER)


def _folders() -> list[Path]:
    """Those that are there: an installed package has configs and scripts inside."""
    names = FOLDERS if checkout() else FOLDERS[:2]
    return [TOP / name for name in names if (TOP / name).is_dir()]


def kept(run: Path) -> Path | None:
    """The copy that a run's jobs run; None: it was made before copies were kept. It may be gone."""
    told = ledger.events(run, event="code")
    return Path(str(told[-1]["path"])) if told else None


def directory(copy: Path | None) -> Path | None:
    """Where a run's jobs find their code: in its copy (:func:`kept`), else the checkout; None: it is installed."""
    return copy if copy is not None and copy.is_dir() else checkout()


def revision() -> str:
    """The checkout's commit, a kept copy's, or the version of an installed package (and of a checkout without git)."""
    with contextlib.suppress(OSError):
        return (TOP / "REVISION").read_text(encoding="utf-8")
    if checkout() is not None:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return _git("describe", "--always", "--dirty", "--abbrev=12").strip()
    return __version__


def _uncommitted() -> str:
    """What a checkout has changed since its commit; "" where nothing, or where it is none."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return _git("diff", "HEAD", "--", *FOLDERS) if (TOP / ".git").exists() else ""
    return ""


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", "-C", str(TOP), *words], capture_output=True, encoding="utf-8", errors="replace", check=True
    ).stdout
