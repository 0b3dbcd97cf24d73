"""``RUN/track/NAME.json``: what a tracker has of a run, and what went wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from glmjobs.tracking.targets import VARIABLES
from hpc.core import hints
from hpc.core.files import read_json, write_json
from hpc.core.secrets import looks_like_secret

NOTHING = -1
"""The last step that was sent, where none was."""


@dataclass
class State:
    """On record.

    Attributes:
        where: the variables of :data:`VARIABLES` when the run was first sent.
        sent: by target, the last ``step`` and the ``summary`` that are there.
        url: the run's page.
        failures: attempts at sending that failed, in all.
        error: why the last one did; None where it did not.
    """

    where: dict[str, str] = field(default_factory=dict)
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)
    url: str | None = None
    failures: int = 0
    error: str | None = None

    def step(self, target: str) -> int:
        """The last step that is there."""
        return int(self.sent.get(target, {}).get("step", NOTHING))

    def note(self, target: str, step: int, summary: Mapping[str, float]) -> None:
        """So much is there now."""
        self.sent[target] = {"step": step, "summary": dict(summary)}
        self.error = None

    def remember(self, tracker: str, environ: Mapping[str, str]) -> None:
        """Keep where the run is, at the first time."""
        if not self.where:
            own = (name for name in VARIABLES if name.startswith(tracker.upper()))
            given = {name: environ[name] for name in own if environ.get(name)}
            self.where = {name: value for name, value in given.items() if not looks_like_secret(value)}


def folder(run: Path) -> Path:
    """Where trackers' files are."""
    return run / "track"


def load(run: Path, tracker: str) -> State:
    """What is on record; nothing yet where there is none."""
    raw = read_json(folder(run) / f"{tracker}.json") or {}
    return State(**{name: raw[name] for name in State.__dataclass_fields__ if name in raw})


def save(run: Path, tracker: str, state: State) -> None:
    """Put it on record."""
    write_json(folder(run) / f"{tracker}.json", asdict(state))


def troubles(run: Path) -> list[str]:
    """What people are to know: a tracker that could not be sent to last time, in a line each."""
    found = []
    for file in sorted(folder(run).glob("*.json")):
        state = load(run, file.stem)
        if state.error is not None:
            again = hints.command("glmjobs.track", "sync", run, "--to", file.stem)
            why = f"{file.stem} could not be sent to (failures so far: {state.failures:,}): {state.error}"
            found.append(f"{why}; nothing is lost: {again}")
    return found
