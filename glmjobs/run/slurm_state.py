"""What Slurm adds to a run's state: reasons, nodes, and ends that nobody could write down.

The ledger and the markers decide. Slurm is believed where it knows what they cannot: that a job is back in the queue,
that a node took it away, that it ended before its first line. That Slurm does not know a job, or does not answer, says
nothing about the work: then the run's own signs of life are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from glmjobs.run import progress
from glmjobs.run.last_activity import last_activity
from glmjobs.run.state import (
    BAD,
    CANCELLED,
    DONE,
    ENDED,
    FAILED,
    LOST,
    RUNNING,
    STOPPED,
    WAITING,
    RunState,
    StageState,
)
from hpc.chain import own_jobs
from hpc.chain.own_jobs import Found
from hpc.chain.stage_state import REQUEUED
from hpc.core.errors import HpcError
from hpc.core.files import Json
from hpc.slurm import maintenance, reasons
from hpc.slurm.identity import Claim
from hpc.slurm.records import JobInfo, JobState

ALIVE_SECONDS = 120.0
"""A stage that wrote something so short a time ago is alive, whatever Slurm has forgotten."""

ASK_SECONDS = 15.0
"""Longest wait for squeue: a status that hangs is no status. (squeue gives a dead controller up after 9 to 18 s.)"""


def add(
    runs: Sequence[RunState],
    jobs: Mapping[str, Sequence[Json]],
    reread: Callable[[Path], list[StageState]],
) -> None:
    """Add Slurm's part to the states of several runs: one squeue call, and one sacct call for what it has forgotten.

    Args:
        jobs: by a run's path, what its ledger has on record of its jobs (:data:`hpc.chain.own_jobs.RECORDS`).
        reread: a run's stages by its directory alone, for those whose end may have been written meanwhile.
    """
    wanted: dict[tuple[str, str], Claim] = {}
    shown: dict[Claim, StageState] = {}
    for run in runs:
        if stages := [s for s in run.stages if _open(s)]:
            mine = own_jobs.claims(jobs[run.path])
            for stage in stages:
                claim = mine.get("train" if stage.stage == "preflight" else stage.stage)
                if claim is not None and claim.job == stage.job:
                    wanted[run.path, stage.stage] = claim
                    shown.setdefault(claim, stage)
                    if stage.stage != "preflight":
                        shown[claim] = stage
    try:
        known = own_jobs.overview(
            wanted.values(), lambda claim, found: _doubtful(shown[claim], found), timeout=ASK_SECONDS
        )
    except HpcError as error:
        for run in runs:
            if any(_open(s) for s in run.stages):
                _silent(run, " ".join(str(error).split()))
        return
    for run in runs:
        asked = [(s, known[wanted[run.path, s.stage]]) for s in run.stages if (run.path, s.stage) in wanted]
        changed = [s for s, found in asked if _merge(Path(run.path), s, found, run)]
        if changed:  # it may have ended well between our reading and Slurm's answer
            fresh = {s.stage: s for s in reread(Path(run.path))}
            for stage in changed:
                newer = fresh[stage.stage]
                if newer.state in ENDED and newer.job == stage.job:
                    vars(stage).update(vars(newer))


def _open(stage: StageState) -> bool:
    return bool(stage.job and stage.job.isdigit() and stage.state != DONE)


def _doubtful(stage: StageState, found: Found) -> bool:
    """Whether what squeue says has to be asked of the controller: its list may be an old one, or not hold the job yet.
    (Of a job that has ended by the ledger, squeue need not know anything.)"""
    if found.info is None:
        return stage.state in (RUNNING, WAITING) and not stage.blocked
    expected = found.info.state.is_active if stage.state == RUNNING else found.info.state.is_pending
    return not found.info.state.is_final and (stage.state in BAD or not expected)


def _silent(run: RunState, said: str) -> None:
    """Slurm does not answer: what the directory says stands, with the age of its last sign of life."""
    run.slurm = said
    for stage in run.stages:
        if stage.state == RUNNING:
            stage.reason = f"Slurm does not answer; {_sign(run, stage)}"
        elif stage.state == WAITING and stage.job:
            stage.reason = "Slurm does not answer"


def _sign(run: RunState, stage: StageState) -> str:
    seen = last_activity(Path(run.path), stage.stage)
    return "no sign of life yet" if seen is None else f"last sign of life {_ago(time.time() - seen)} ago"


def _ago(seconds: float) -> str:
    seconds = max(seconds, 0.0)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _merge(path: Path, stage: StageState, found: Found, run: RunState) -> bool:
    """Take over what Slurm says about one stage; True where it turned the state into an end."""
    info = found.info
    if info is None:
        return _forgotten(path, stage, found, run)
    parts = [i for i in found.parts or found.over if "_" in i.id and found.claim.attempts == 1]
    if stage.stage != "preflight" and parts:
        stage.elements = _count(parts)
    if info.state.is_pending:
        _pending(stage, info)
        return False
    if info.state.is_active:
        _active(stage, info)
        return False
    worst = next((i for i in parts if i.state.is_final and not i.state.is_success), info)
    return info.state.is_final and _final(path, stage, worst)


def _count(parts: Sequence[JobInfo]) -> dict[str, int]:
    words = [
        RUNNING if i.state.is_active else WAITING if i.state.is_pending
        else DONE if i.state.is_success else FAILED
        for i in parts
    ]  # fmt: skip
    return {word: words.count(word) for word in dict.fromkeys(words)}


def _pending(stage: StageState, info: JobInfo) -> None:
    if stage.stage == "preflight":
        stage.state, stage.error = WAITING, None
        return
    why = maintenance.waiting(info)
    requeued = stage.reason.startswith(REQUEUED)
    if stage.state in (RUNNING, *BAD) or (stage.attempts and requeued):
        times = f" for the {_nth(info.restarts)} time" if info.restarts > 1 else ""
        before = stage.reason.removeprefix(REQUEUED) if requeued else ""
        why = f"{REQUEUED}{times}{'; ' + why if why else ''}{before}"
    stage.state, stage.reason, stage.blocked = WAITING, why, reasons.never_starts(info)
    stage.error = None  # of the attempt before; it waits for its next one


def _nth(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number if number < 20 else number % 10, 'th') }"


def _active(stage: StageState, info: JobInfo) -> None:
    if info.state is JobState.COMPLETING:
        if (
            stage.state in BAD
        ):  # whether it is over or queued again is not known before Slurm has let go of it
            stage.state, stage.reason = RUNNING, "ending"
        return
    if stage.stage == "preflight":
        return
    if stage.state in (WAITING, *BAD):
        stage.state, stage.reason, stage.error, stage.blocked = RUNNING, "starting", None, False
        stage.nodes = info.node_list or stage.nodes
    if info.state is JobState.SUSPENDED:
        stage.reason = "suspended by Slurm"


def _final(path: Path, stage: StageState, info: JobInfo) -> bool:
    """Slurm says that the job is over."""
    if stage.state in (FAILED, STOPPED):
        if info.state not in (JobState.FAILED, JobState.COMPLETED):
            stage.error = f"{stage.error + '; ' if stage.error else ''}{reasons.ending(info)}"
        return False
    if stage.state == CANCELLED and info.state is JobState.PREEMPTED:  # the job itself cannot always tell
        stage.state, stage.error = FAILED, reasons.ending(info)
        return False
    if stage.state == CANCELLED or stage.blocked:
        return False
    if stage.stage == "preflight" and stage.state == WAITING:
        stage.state = CANCELLED if info.state is JobState.CANCELLED else WAITING  # with its job
        return False
    if info.state.is_success:
        stage.state = LOST
        stage.error = "Slurm calls the job COMPLETED, but the stage left no result"
        return True
    stage.state = CANCELLED if info.state is JobState.CANCELLED else FAILED
    said = progress.last_error(path, stage.stage)
    before = "" if stage.attempts else " before its first line"
    stage.error = reasons.ending(info) + before + (f"; {said}" if said else "")
    return True


def _forgotten(path: Path, stage: StageState, found: Found, run: RunState) -> bool:
    """Slurm answered, and knows nothing of the job: not listed yet, purged, or lost in a crash of the controller."""
    if stage.state not in (RUNNING, WAITING) or stage.blocked:
        return False
    if found.elsewhere:
        stage.reason = f"its job is on the cluster {found.elsewhere}, which cannot be asked from here"
        return False
    seen = last_activity(path, stage.stage)
    if stage.state == RUNNING and seen is not None and time.time() - seen < ALIVE_SECONDS:
        stage.reason = f"Slurm does not know job {stage.job}; {_sign(run, stage)}"
        return False
    if stage.stage == "preflight" and stage.state == WAITING:
        return False
    if stage.state == WAITING and not stage.attempts and (late := found.late) is not None:
        stage.reason = f"accepted {late:.0f} s ago, not listed yet"
        return False
    if stage.state == RUNNING:
        stage.error = f"{found.gone()}, and it left no end; {_sign(run, stage)}"
    else:
        stage.error = f"{found.gone()}, and it never started"
    stage.state = LOST
    return True
