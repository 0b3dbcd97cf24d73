"""Committed checkpoints: a ``checkpoint-N`` counts only when every file of it is known to be on disk.

DeepSpeed writes ``latest`` from rank 0 before the other ranks are done, so it proves nothing. ``committed.json`` is
written last, after a barrier of all ranks, and lists every file with its size; without it, or with a file missing or
of another size, a checkpoint is passed over, and resume says so. No torch here: consolidation uses it too.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpc.core import timestamps
from hpc.core.files import read_json, write_json

COMMITTED = "committed.json"


@dataclass(frozen=True)
class Checkpoint:
    """A ``checkpoint-N`` directory: its step, and why it does not count (None: it does)."""

    path: Path
    step: int
    problem: str | None


def scan(folder: Path) -> list[Checkpoint]:
    """Every ``checkpoint-N`` under ``folder``, newest first, each checked."""
    found = []
    for path in folder.glob("checkpoint-*"):
        match = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if match and path.is_dir():
            found.append(Checkpoint(path, int(match.group(1)), problem(path)))
    return sorted(found, key=lambda c: c.step, reverse=True)


def problem(path: Path) -> str | None:
    """Why a checkpoint does not count, in words; None where it does."""
    listed = read_json(path / COMMITTED)
    if listed is None:
        return "not committed (the save did not finish)"
    for entry in listed.get("files", []):
        file = path / entry["path"]
        if not file.is_file():
            return f"{entry['path']} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{entry['path']} has {file.stat().st_size} bytes instead of {entry['bytes']}"
    return None


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that counts."""
    return next((c for c in scan(folder) if c.problem is None), None)


def commit(path: Path, step: int, world_size: int) -> None:
    """Declare a checkpoint whole. Call on one rank, after a barrier, when every rank's files are written and synced."""
    files = [{"path": str(f.relative_to(path)), "bytes": f.stat().st_size} for f in _files(path)]
    write_json(
        path / COMMITTED, {"step": step, "world_size": world_size, "time": timestamps.now(), "files": files}
    )


def sync(path: Path) -> None:
    """Flush every file below ``path`` to disk. Each node syncs what its ranks wrote; syncing twice costs nothing."""
    for file in _files(path):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rotate(folder: Path, keep: int) -> list[Path]:
    """Delete all but the newest ``keep`` (≥ 1) checkpoints that count, and the broken ones older than the newest.

    A broken one newer than every good one is left: it may be evidence, and the next save of its step replaces it.
    """
    checked = scan(folder)
    good = [c for c in checked if c.problem is None]
    if not good:
        return []
    doomed = good[max(1, keep) :] + [c for c in checked if c.problem is not None and c.step < good[0].step]
    for checkpoint in doomed:
        # Without its list it no longer counts, so a deletion that is interrupted leaves nothing that looks whole.
        (checkpoint.path / COMMITTED).unlink(missing_ok=True)
        shutil.rmtree(checkpoint.path, ignore_errors=True)
    return [c.path for c in doomed]


def size(path: Path) -> int:
    """Bytes of a checkpoint's files."""
    return sum(f.stat().st_size for f in _files(path))


def _files(path: Path) -> Iterator[Path]:
    return (f for f in sorted(path.rglob("*")) if f.is_file() and f.name != COMMITTED)
