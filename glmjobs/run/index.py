"""What is known of runs that stand still, kept beside them, so that a list of a thousand is not a thousand readings.

One file in the folder of the runs. An entry counts only while the run's ledger, markers and training log are those it
was made from (inode, size and time of each); runs that run, or whose last attempt has no end on record, have none.
Whatever is amiss with the file, it is left aside and written anew; where it cannot be written, all works without it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glmjobs import __version__
from glmjobs.run.state import ENDED, RUNNING, RunState, StageState
from hpc.core.files import Json, write_atomic

NAME = ".index"
"""Of the file; its first line is the SHA-256 of the rest."""

SOURCES = ("ledger.jsonl", "stages", "checkpoints/train_log.jsonl")
"""What an entry is made from. Markers and progress files are renamed into their folder, which changes its time."""

SETTLED_SECONDS = 2.0
"""A file changed so short a time ago can be changed again without its time showing it."""

Signature = list[list[int]]


def signature(run: Path) -> Signature:
    """Inode, size and time (ns) of each of :data:`SOURCES`; zeros where there is none."""
    found = []
    for name in SOURCES:
        try:
            seen = os.stat(f"{run}/{name}")  # noqa: PTH116 - a thousand runs: no Path for each
            found.append([seen.st_ino, seen.st_size, seen.st_mtime_ns])
        except FileNotFoundError:
            found.append([0, 0, 0])
    return found


class Index:
    """The entries of a folder of runs."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.made_by = _code()
        self.entries = self._read()
        self.kept: dict[str, Json] = {}
        """Entries that are right now, old and new."""

    def _read(self) -> dict[str, Json]:
        try:
            digest, _, text = self.path.read_bytes().partition(b"\n")
            if hashlib.sha256(text).hexdigest().encode() != digest:
                return {}
            found = json.loads(text)
            return found["entries"] if found["made_by"] == self.made_by else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def get(self, run: Path, now: Signature) -> tuple[RunState, dict[str, float], list[Json]] | None:
        """A run's state by its directory alone, its GPU-hours as long as no stage runs, and what its ledger has on
        record of open jobs; None: read it."""
        entry = self.entries.get(run.name)
        if entry is None or entry["signature"] != now:
            return None
        self.kept[run.name] = entry
        stages = [StageState(**{**stage, "elements": dict(stage["elements"])}) for stage in entry["stages"]]
        state = RunState(
            name=run.name,
            path=str(run),
            stages=stages,
            planned=tuple(entry["planned"]),
            data=dict(entry["data"]),
        )
        return state, dict(entry["gpu_hours"]), list(entry["jobs"])

    def keep(
        self, run: Path, seen: Signature, state: RunState, hours: dict[str, float], jobs: Sequence[Json]
    ) -> None:
        """Keep what was read of a run that :func:`stands_still`; ``seen``: its signature before it was read."""
        if time.time() - max(stamp for _, _, stamp in seen) / 1e9 > SETTLED_SECONDS:
            self.kept[run.name] = {
                "signature": seen, "stages": [asdict(s) for s in state.stages], "planned": list(state.planned),
                "data": state.data, "gpu_hours": hours, "jobs": jobs,
            }  # fmt: skip

    def save(self) -> None:
        """Write the index, where it has changed and can be written."""
        if self.kept == self.entries:
            return
        text = json.dumps({"made_by": self.made_by, "entries": self.kept}, ensure_ascii=False).encode()
        digest = hashlib.sha256(text).hexdigest().encode()
        with contextlib.suppress(OSError):
            write_atomic(self.path, digest + b"\n" + text, 0o600, durable=False)


def stands_still(state: RunState, events: Sequence[Json]) -> bool:
    """Whether nothing but the run's own files decides what is shown of it, and the clock does not."""
    kinds = [e.get("event") for e in events]
    local = any((s.job or "").startswith("local-") and s.state not in ENDED for s in state.stages)
    running = any(s.state == RUNNING for s in state.stages)
    return not running and not local and kinds.count("attempt") == kinds.count("ended")


def _code() -> list[Any]:
    """Which code made an entry: another may read the same files otherwise."""
    import hpc.chain

    rooms = [Path(__file__).parent, Path(str(hpc.chain.__file__)).parent]
    newest = max(p.stat().st_mtime_ns for room in rooms for p in room.glob("*.py"))
    return [__version__, newest, str(rooms[0])]
