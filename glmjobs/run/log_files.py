"""Which files a stage's logs are, and which of them one wants to see."""

from __future__ import annotations

import re
from pathlib import Path

from glmjobs.run.state import RUNNING, RunState
from hpc.chain import ledger


def choose(state: RunState) -> str:
    """The stage a person most likely wants: in trouble, else running, else the last that has anything to show."""
    trouble = state.trouble
    if trouble is not None and trouble.attempts:
        return trouble.stage
    running = [s.stage for s in state.stages if s.state == RUNNING]
    written = [s.stage for s in state.stages if logs(Path(state.path), s.stage, None)]
    return (running or written[-1:] or ["train"])[0]


def logs(run: Path, stage: str, rank: int | None) -> list[Path]:
    """A stage's log files, the job's own output first, then its ranks in order."""
    folder = run / "jobs" / stage
    files = [p for p in folder.iterdir() if p.suffix in (".log", ".out")] if folder.is_dir() else []
    if rank is not None:
        files = [p for p in files if rank_of(p) == rank]
    return sorted(files, key=lambda p: (p.suffix == ".log", rank_of(p) or 0, p.name))


def first_failed(run: Path, stage: str) -> int | None:
    """The rank that failed first in the stage's newest attempt; None where that goes on or did not fail."""
    newest = [e for e in ledger.read(run) if e.get("stage") == stage and e["event"] in ("attempt", "ended")]
    rank = newest[-1].get("failed_rank") if newest and newest[-1]["event"] == "ended" else None
    return rank if isinstance(rank, int) else None


def rank_of(path: Path) -> int | None:
    """The rank of ``rank-3.log``, or the array element of ``17_3.out``; None for a job's output."""
    found = re.fullmatch(r"rank-(\d+)\.log|\d+_(\d+)\.out", path.name)
    return int(found[1] or found[2]) if found else None
