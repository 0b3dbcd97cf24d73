"""Where a chain stands: its ledger and markers decide, and Slurm adds what they cannot know."""

from __future__ import annotations

from pathlib import Path

from hpc.chain import ledger, own_jobs, submission
from hpc.chain.own_jobs import Found
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
from hpc.slurm import maintenance, reasons
from hpc.slurm.records import JobState

ASK_SECONDS = 15.0
"""Longest wait for squeue: a status that hangs is no status. (squeue gives a dead controller up after 9 to 18 s.)"""


def status(run: Path, *, ask_slurm: bool = True) -> list[StageState]:
    """Every stage of the chain in this run directory now, in order.

    A stage that Slurm does not answer about is shown as the run directory has it, and says so in ``reason``.

    Args:
        ask_slurm: one squeue call for the stages that are not done, and one of sacct for what it has forgotten.
    """
    # Slurm first: whatever a job writes before it ends is then in the ledger.
    known = _known(run) if ask_slurm else {}
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
        found = known.get(stage.stage) if known is not None else None
        if known is None and stage.state != DONE and (stage.job or "").isdigit():
            stage.reason = "Slurm does not answer"
        elif found is not None and stage.state != DONE and stage.job == found.claim.job:
            _merge(stage, found)
    wait_for_repair(stages)
    return stages


def _known(run: Path) -> dict[str, Found] | None:
    """Stage → what Slurm knows of its job; None where it does not answer."""
    open_jobs = {s: c for s, c in own_jobs.of_run(run).items() if not ledger.is_done(run, s)}
    try:
        known = own_jobs.overview(
            open_jobs.values(), lambda claim, found: not found.parts, timeout=ASK_SECONDS
        )
    except HpcError:
        return None
    return {stage: known[claim] for stage, claim in open_jobs.items()}


def _merge(stage: StageState, found: Found) -> None:
    """What Slurm says of one stage's job."""
    info = found.info
    if found.elsewhere:
        stage.reason = f"its job is on the cluster {found.elsewhere}, which cannot be asked from here"
    elif info is None:
        if stage.state == WAITING and (late := found.late) is not None:
            stage.reason = f"accepted {late:.0f} s ago, not listed yet"
        elif stage.state in (RUNNING, WAITING):
            stage.state, stage.error = LOST, f"{found.gone()}, and it left no end"
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
