"""Where a chain stands: its ledger and markers decide, and Slurm adds what they cannot know."""

from __future__ import annotations

from pathlib import Path

from hpc.chain import ledger, submission
from hpc.chain.stage_state import (
    BAD,
    CANCELLED,
    DONE,
    FAILED,
    LOST,
    RUNNING,
    WAITING,
    StageState,
    follow,
    follow_local,
    follow_submissions,
    wait_for_repair,
)
from hpc.core.errors import HpcError
from hpc.slurm import client as slurm
from hpc.slurm import maintenance, reasons
from hpc.slurm.records import JobInfo, JobState

ASK_SECONDS = 15.0
"""Longest wait for squeue: a status that hangs is no status. (squeue gives a dead controller up after 9 to 18 s.)"""


def status(run: Path, *, ask_slurm: bool = True) -> list[StageState]:
    """Every stage of the chain in this run directory now, in order.

    A stage that Slurm does not answer about is shown as the run directory has it, and says so in ``reason``.

    Args:
        ask_slurm: one squeue call for the stages that are not done, and one of sacct for what it has forgotten.
    """
    # Slurm first: whatever a job writes before it ends is then in the ledger.
    jobs = {
        s: j for s, j in submission.current_jobs(run).items() if j.isdigit() and not ledger.is_done(run, s)
    }
    known = _known(list(jobs.values())) if ask_slurm else {}
    events = ledger.read(run)
    planned, _ = submission.intended(run, events)
    seen = [str(e["stage"]) for e in events if e.get("stage")]
    stages = [StageState(stage=stage) for stage in dict.fromkeys((*planned, *seen))]
    for stage in stages:
        follow(run, stage, [e for e in events if e.get("stage") == stage.stage])
        step = ledger.progress(run, stage.stage).get("step")
        stage.step = step if isinstance(step, int) else None
    follow_submissions(stages, planned, events)
    follow_local(stages, events)
    for stage in stages:
        asked = ask_slurm and stage.job is not None and stage.job == jobs.get(stage.stage)
        if asked and stage.state != DONE:
            _merge(stage, known)
    wait_for_repair(stages)
    return stages


def _known(jobs: list[str]) -> dict[str, JobInfo] | None:
    """What Slurm knows of the jobs; None where it does not answer."""
    try:
        return slurm.jobs(jobs, timeout=ASK_SECONDS, pauses=())
    except HpcError:
        return None


def _merge(stage: StageState, known: dict[str, JobInfo] | None) -> None:
    """What Slurm says of one stage's job."""
    if known is None:
        stage.reason = "Slurm does not answer"
        return
    info = known.get(str(stage.job))
    if info is None:
        if stage.state in (RUNNING, WAITING):
            stage.state, stage.error = LOST, f"Slurm no longer knows job {stage.job}, and it left no end"
    elif info.state.is_pending:
        stage.state, stage.reason, stage.error = WAITING, maintenance.waiting(info), None
        stage.blocked = reasons.never_starts(info)
    elif info.state is JobState.COMPLETING:
        if stage.state in BAD:  # over or queued again: not known before Slurm has let go of it
            stage.state, stage.reason = RUNNING, "ending"
    elif info.state.is_active:
        stage.state, stage.error, stage.blocked = RUNNING, None, False
        stage.nodes = stage.nodes or info.node_list or None
    elif info.state.is_final and stage.state in (RUNNING, WAITING):
        if info.state.is_success:
            stage.state, stage.error = LOST, "Slurm calls the job COMPLETED, but the stage left no result"
        else:
            stage.state = CANCELLED if info.state is JobState.CANCELLED else FAILED
            stage.error = reasons.ending(info)
