"""Signs of life: when a stage of a run last wrote anything."""

from __future__ import annotations

from pathlib import Path

from hpc.core.files import newest_mtime


def last_activity(path: Path, stage: str) -> float | None:
    """Unix seconds at which the stage last wrote anything (logs, progress, training log); None if never."""
    files = [path / "stages" / f"{stage}.progress.json", *(path / "jobs" / stage).glob("*.log")]
    files += (path / "jobs" / stage).glob("*.out")
    if stage == "train":
        files.append(path / "checkpoints" / "train_log.jsonl")
    return newest_mtime(files)
