"""What follows an attempt: is it over, does it start again, and why. Read from the ledger; touches nothing.

Three things end an attempt early, and each counts differently:

* the work failed (a rank died, raised or hung): another attempt, until so many in a row got no further;
* it was warned (USR1, the time limit): another attempt, until so many in a row got no further: then the time limit
  is too short for a start and a save;
* the machine or Slurm took it (preemption, a dead node, SIGKILL of everything): another attempt, and not counted.

Whatever ended them, :data:`STARTS_WITHOUT_PROGRESS` starts in a row from the same checkpoint are the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpc.core.files import Json
from hpc.runtime.stop import EXIT_FATAL, EXIT_REQUEUE
from hpc.slurm.records import parse_time

FINAL_CODES = (2, 3, EXIT_FATAL)
"""Bad input, a machine not fit, a failure that would repeat itself: trying again cannot help."""

DONE, STOPPED, FAILED = "done", "stopped", "failed"

# What Slurm has in mind for the job this attempt runs in.
RUNNING, TIMED_OUT, LOST, PREEMPTED, ENDING, UNKNOWN = (
    "running", "timed out", "lost", "preempted", "ending", "unknown",
)  # fmt: skip
TAKEN = (LOST, PREEMPTED)
"""Such an end is the cluster's doing: it is not counted."""

SAME_SECONDS = 2.0
"""Slurm sets a job's PreemptTime and EndTime when it ends it to make room."""

STARTS_WITHOUT_PROGRESS = 30
"""So many starts in a row that got no further are too many, whoever ended them. Preemption is no failure; but a job
that thirty times did not get as far as a checkpoint will not at the thirty-first."""


@dataclass(frozen=True)
class Verdict:
    """Whether another attempt follows, and the reason where none does.

    ``useless``: none would help, before somebody has mended what is wrong.
    """

    again: bool
    reason: str = ""
    useless: bool = False


def outcome(code: int, *, told: bool, marked: bool, failed: bool = False, progressed: bool = False) -> str:
    """An attempt's outcome.

    A rank that asks to be started again (:data:`hpc.runtime.stop.EXIT_REQUEUE`) was told to by a signal. Where the
    batch process was not told, it may be srun's SIGTERM, because another rank failed: then the attempt has failed.

    Args:
        code: exit code of its command.
        told: a stop signal came to the batch process, or Slurm is ending the job.
        marked: the stage's marker says that it is done.
        failed: a rank failed by itself.
        progressed: a checkpoint was committed in this attempt.
    """
    if code == 0:
        # srun ends with 0 when it was told to end its step and lost sight of the tasks.
        return STOPPED if told and not marked else DONE
    if failed or not (told or (code == EXIT_REQUEUE and progressed)):
        return FAILED
    # Killed while it was being stopped (before the first step there is nothing to save); not: failed by itself.
    return STOPPED if code == EXIT_REQUEUE or code > 128 else FAILED


def slurm_intends(shown: Json | None, restarts: int = 0) -> str:
    """From ``scontrol show job``: does the job go on, or does Slurm (or a person) end it?

    Args:
        restarts: how often the job had been requeued when this attempt began. Slurm counts a requeue (preemption, or
            by hand) while the job is still COMPLETING, and says nothing else of it then.
    """
    if shown is None:
        return UNKNOWN
    again = str(shown.get("Restarts", ""))
    if again.isdigit() and int(again) > restarts:
        return LOST
    if _preempted(shown):
        return PREEMPTED
    state = str(shown.get("JobState", "")).split(",")[0].split("+")[0]
    reason = str(shown.get("Reason", ""))
    if state in ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING"):
        return RUNNING
    if state == "TIMEOUT" or (state == "COMPLETING" and reason == "TimeLimit"):
        return TIMED_OUT
    if state in ("NODE_FAIL", "PENDING", "REQUEUED", "PREEMPTED", "BOOT_FAIL") or reason == "NodeDown":
        return LOST
    return ENDING


def _preempted(shown: Json) -> bool:
    """Within its grace time, or ended by Slurm to make room (PreemptMode=CANCEL: Slurm won't start it again).

    Not: ended by somebody while it had grace.
    """
    started, preempted, ended = (
        parse_time(str(shown.get(f"{n}Time", ""))) for n in ("Start", "Preempt", "End")
    )
    if started is None or preempted is None or preempted < started:
        return False
    going_on = shown.get("JobState") == "RUNNING"
    return going_on or (ended is not None and abs((ended - preempted).total_seconds()) <= SAME_SECONDS)


def decide(
    events: Sequence[Json], stages: Sequence[str], job: str, ended: str, code: int, *, limit: int, warned: bool,
    intends: str, progressed: bool, advice: str = "",
) -> Verdict:  # fmt: skip
    """What follows the attempt whose ``ended`` event is the newest of ``events``.

    Args:
        stages: the stage that ended, and the one its job is named after.
        code: the exit code of the rank that failed first, else the command's.
        limit: attempts in a row without a new checkpoint that are one too many.
        warned: USR1 came to the batch process.
        intends: see :func:`slurm_intends`; RUNNING for a local job that nobody told to stop, else ENDING.
        progressed: a checkpoint was committed in this attempt.
        advice: what to do where the time limit is too short.
    """
    if cancelled(events, job):
        return Verdict(False, "cancelled")
    if code in FINAL_CODES:
        return Verdict(False, "trying again cannot help", useless=True)
    if intends == LOST:
        return Verdict(False, "Slurm starts it again by itself")
    if intends == PREEMPTED:
        return Verdict(True)
    if intends == ENDING:
        return Verdict(False, "it was told to end")
    if intends == UNKNOWN and ended == STOPPED and not warned:
        return Verdict(False, "it was told to end")
    if progressed or (ended == STOPPED and not warned):
        return Verdict(True)
    count = fruitless(events, stages, job)
    if count < limit:
        return Verdict(True)
    if ended == STOPPED:
        return Verdict(
            False, f"{count} attempts in a row were stopped by the time limit before they saved a new checkpoint; "
            f"{advice or 'give the job more time, or save more often'}",
            useless=True,
        )  # fmt: skip
    return Verdict(False, f"{count} attempts in a row failed without a new checkpoint", useless=True)


def cancelled(events: Sequence[Json], job: str) -> bool:
    """Somebody cancelled this job since it last started."""
    mine = (e["event"] for e in reversed(events) if e.get("job") in (job, None))
    return (
        next((event for event in mine if event in ("cancelled", "not_cancelled", "attempt")), "")
        == "cancelled"
    )


def fruitless(events: Sequence[Json], stages: Sequence[str], job: str) -> int:
    """Attempts of ``stages[0]`` in a row, newest backwards, that failed or ran into their time limit without a new
    checkpoint.

    Attempts without an end on record died with their machine and don't count, nor do those that Slurm took; a heal
    of the stage's job starts afresh.
    """
    count, newest = 0, None
    for event in reversed(events):
        if event["event"] == "healed" and event.get("stage") in stages:
            break
        if event["event"] != "ended" or event.get("stage") != stages[0] or event.get("job") != job:
            continue
        if event.get("outcome") == DONE:
            break
        if event.get("taken") or (event.get("outcome") == STOPPED and event.get("signal") != "SIGUSR1"):
            continue
        step = event.get("last_checkpoint")
        if count and step != newest:
            break
        newest = step
        count += 1
    return count


def starts(events: Sequence[Json], stages: Sequence[str], job: str, checkpoint: int | None) -> int:
    """Attempts of ``stages[0]`` in a row, newest backwards, that began at this ``checkpoint`` of the job, however they
    ended; since the stage's job was last healed."""
    count = 0
    for event in reversed(events):
        if event["event"] == "healed" and event.get("stage") in stages:
            break
        if event["event"] == "attempt" and event.get("stage") == stages[0] and event.get("job") == job:
            if event.get("checkpoint") != checkpoint:
                break
            count += 1
    return count
