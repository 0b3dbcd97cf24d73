"""Slurm's words for why a job waits or how it ended, as a person would say them.

The codes are those of squeue's manual (JOB REASON CODES); the list is not closed, so an unknown one is shown as it is.
"""

from __future__ import annotations

import re

from hpc.slurm.records import JobInfo, JobState

WAITS = {
    "AssocGrpGRES": "the account's share of GPUs is in use",
    "AssocMaxJobsLimit": "the account's limit of running jobs is reached",
    "BadConstraints": "no node has the features asked for: it never starts",
    "BeginTime": "put back a moment ago; it may start again in a minute or two",
    "Cleaning": "its last attempt is still being cleaned up",
    "Dependency": "waits for the job before it",
    "DependencyNeverSatisfied": "the job it waits for did not end well: it never starts by itself",
    "InvalidAccount": "its account is not valid (any more): it never starts",
    "InvalidQOS": "its quality of service is not valid (any more): it never starts",
    "JobArrayTaskLimit": "as many elements of the array run as may",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held: `scontrol release {job}` lets it go",
    "JobHoldMaxRequeue": "requeued too often, held by Slurm",
    "Licenses": "waits for a licence",
    "NodeDown": "a node it needs is down",
    "None": "",
    "PartitionConfig": "asks for more than the partition has: it never starts",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "PartitionNodeLimit": "asks for more nodes than the partition allows, or they are down",
    "PartitionTimeLimit": "asks for more time than the partition allows: it never starts",
    "Priority": "jobs of higher priority come first",
    "QOSGrpGRES": "the quality of service's share of GPUs is in use",
    "QOSMaxGRESPerUser": "your limit of GPUs is reached",
    "QOSMaxJobsPerUserLimit": "your limit of running jobs is reached",
    "ReqNodeNotAvail": "a node it needs is not available (down, drained or reserved)",
    "Reservation": "waits for its reservation",
    "Resources": "waits for free nodes",
    "SystemFailure": "Slurm failed to start it",
    "launch_failed_requeued_held": "could not be started, held: `scontrol release {job}` tries again",
}
_NEVER = frozenset(
    code for code, text in WAITS.items() if "never starts" in text or code == "JobHoldMaxRequeue"
)

ENDS = {
    JobState.BOOT_FAIL: "the node failed to boot",
    JobState.CANCELLED: "cancelled in Slurm",
    JobState.DEADLINE: "past its deadline",
    JobState.FAILED: "failed",
    JobState.LAUNCH_FAILED: "could not be started",
    JobState.NODE_FAIL: "a node failed",
    JobState.OUT_OF_MEMORY: "out of memory",
    JobState.PREEMPTED: "preempted by another job",
    JobState.REVOKED: "revoked by Slurm",
    JobState.TIMEOUT: "over its time limit",
}


def waiting(info: JobInfo) -> str:
    """Why a pending job waits, in words; "" where Slurm names no reason."""
    if info.state is JobState.REQUEUE_HOLD or info.state is JobState.SPECIAL_EXIT:
        return f"requeued and held: `scontrol release {info.id}` lets it go"
    code = info.reason.partition(",")[0].strip()
    known = WAITS.get(code, WAITS.get(code.replace(" ", "_")))
    if known is not None:
        return known.replace("{job}", info.id)
    if "Failure" in code or "ExitCode" in code or "raised" in code.lower():
        return ""  # squeue goes on showing how the last attempt ended for a moment
    # scontrol writes blanks as underscores
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", code.replace("_", " ")).lower() if code else ""


def never_starts(info: JobInfo) -> bool:
    """Whether a pending job cannot start unless somebody does something."""
    held = info.state in (JobState.REQUEUE_HOLD, JobState.SPECIAL_EXIT)
    return held or info.reason.partition(",")[0] in _NEVER or held_reason(info)


def held_reason(info: JobInfo) -> bool:
    """Whether a pending job is held, by whomever."""
    return info.reason.startswith(("JobHeld", "launch_failed", "launch failed")) or info.state in (
        JobState.REQUEUE_HOLD,
        JobState.SPECIAL_EXIT,
    )


def ending(info: JobInfo) -> str:
    """How a job ended by Slurm's account, in words: ``out of memory on node1 (Slurm: OUT_OF_MEMORY)``."""
    text = ENDS.get(info.state, info.state.name.lower())
    if info.state is JobState.CANCELLED and info.cancelled_by is not None:
        text = f"cancelled by {_person(info.cancelled_by)}"
    if info.node_list:
        text += f" on {info.node_list}"
    details = [f"Slurm: {info.state.name}"]
    if info.exit_signal:
        details.append(f"signal {info.exit_signal}")
    elif info.exit_code:
        details.append(f"exit code {info.exit_code}")
    elif info.derived_exit_code:
        details.append(f"a step's exit code was {info.derived_exit_code}")
    return f"{text} ({', '.join(details)})"


def _person(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
