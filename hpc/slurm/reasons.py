"""Slurm's words for why a job waits or how it ended, as a person would say them.

The codes are those of Slurm's documentation (job_reason_codes) and of src/common/job_state_reason.c; the list is not
closed, so an unknown one is shown as it is.
"""

from __future__ import annotations

import re
from datetime import datetime

from hpc.slurm.records import JobInfo, JobState

WAITS = {
    "AccountNotAllowed": "its account may not use the partition: it never starts",
    "AccountingPolicy": "a limit of the account or the quality of service is reached",
    "AssocGrpGRES": "the account's share of GPUs is in use",
    "BadConstraints": "no node has the features asked for: it never starts",
    "BeginTime": "put back a moment ago; it may start again in a minute or two",
    "BurstBufferOperation": "its burst buffer failed: it never starts",
    "BurstBufferResources": "waits for room in the burst buffer",
    "BurstBufferStageIn": "its data is being copied into the burst buffer",
    "Cleaning": "its last attempt is still being cleaned up",
    "Constraints": "no node has what it asks for at the moment",
    "DeadLine": "cannot end before its deadline: it never starts",
    "Dependency": "waits for the job before it",
    "DependencyNeverSatisfied": "the job it waits for did not end well: it never starts by itself",
    "FedJobLock": "another cluster of the federation is looking at it",
    "InvalidAccount": "its account is not valid (any more): it never starts",
    "InvalidQOS": "its quality of service is not valid (any more): it never starts",
    "JobArrayTaskLimit": "as many elements of the array run as may",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held: `scontrol release {job}` lets it go",
    "JobHoldMaxRequeue": "requeued too often, held by Slurm: it never starts by itself",
    "Licenses": "waits for a licence",
    "MaxPoweredUpNodes": "as many nodes are powered up as may be",
    "MpiPortsBusy": "the ports for its MPI are in use",
    "NodeDown": "a node it needs is down",
    "None": "",
    "NvidiaImexChannels": "waits for an NVIDIA IMEX channel",
    "PartitionConfig": "asks for more than the partition has: it never starts",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition is inactive",
    "PartitionNodeLimit": "asks for more nodes than the partition allows, or they are down",
    "PartitionTimeLimit": "asks for more time than the partition allows: it never starts",
    "Priority": "jobs of higher priority come first",
    "Prolog": "its nodes are being made ready",
    "QOSGrpGRES": "the quality of service's share of GPUs is in use",
    "QOSGrpWallLimit": "the quality of service's budget of time is used up",
    "QOSMaxGRESPerUser": "your limit of GPUs is reached",
    "QOSNotAllowed": "its quality of service may not be used with this partition or account: it never starts",
    "QOSUsageThreshold": "your use of the quality of service is below its threshold",
    "ReqNodeNotAvail": "a node it needs is not available (down, drained or reserved)",
    "Reservation": "waits for its reservation",
    "ReservationDeleted": "its reservation is gone: it never starts",
    "ReservationInvalid": "its reservation does not fit it: it never starts",
    "Resources": "waits for free nodes",
    "SchedDefer": "Slurm looks at it in its next round",
    "SystemFailure": "Slurm failed to start it",
}
MAINTENANCE = (
    "nodes it needs are reserved for maintenance; a job with a shorter time limit may end before it begins"
)
PHRASES = (
    ("reserved for maintenance", MAINTENANCE),
    ("may be reserved for other job", "a node it needs may be reserved for another job"),
    ("nodes required for job are down",
     "nodes it needs are down, drained or reserved for partitions of higher priority"),
    ("not in group permitted to use", "you are in no group that may use the partition: it never starts"),
    ("launch failure limit exceeded", "could not be started too often, held: `scontrol release {job}` tries again"),
    ("launch failed requeued held", "could not be started, held: `scontrol release {job}` tries again"),
    ("user env retrieval failed", "its environment could not be read, held: `scontrol release {job}` tries again"),
    ("requeued in special exit state", "requeued and held: `scontrol release {job}` lets it go"),
    ("requeued in held state", "requeued and held: `scontrol release {job}` lets it go"),
)  # fmt: skip
"""What slurmctld writes in the code's place or after it, with blanks in squeue and underscores in scontrol."""

_WHAT = {
    "cpu": "CPUs", "gres": "GPUs", "mem": "memory", "memory": "memory", "node": "nodes", "job": "running jobs",
    "jobs": "running jobs", "submitjob": "jobs in the queue", "submitjobs": "jobs in the queue", "wall": "time",
    "wallduration": "time", "bb": "burst buffer", "license": "licences", "energy": "energy", "billing": "billing units",
    "unknown": "a resource", "resource": "a resource", "time": "time",
}  # fmt: skip
_LIMIT = re.compile(
    r"(?P<whose>Assoc|Association|QOS|)(?P<kind>Grp|Max|Min|)(?P<what>CPU|Cpu|GRES|Memory|Mem|Node|SubmitJobs?|Jobs?|"
    r"WallDuration|Wall|BB|License|Energy|Billing|Unknown|Resource|Time)"
    r"(?P<minutes>RunMinutes|RunMins|Minutes|Mins|)(?:Per(?P<per>Job|Node|User|Account))?(?:Limit|NotSatisfied)?\Z"
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
    said = _plain(info.reason)
    for phrase, words in PHRASES:
        if phrase in said.lower():
            return words.replace("{job}", info.id)
    if missing := re.search(r"UnavailableNodes:(\S+)", said):
        return f"nodes it needs are not available (down, drained or reserved): {missing[1]}"
    code = said.partition(",")[0].strip()
    if code == "Dependency" and info.dependency.startswith("singleton"):
        return "waits for its turn: another job of its name runs, or was there before it"
    if code in WAITS:
        return WAITS[code].replace("{job}", info.id)
    if limit := _LIMIT.fullmatch(code):
        return _limit(limit)
    if "Failure" in code or code in _ENDED or "raised" in code.lower():
        return ""  # squeue goes on showing how the last attempt ended for a moment
    # scontrol writes blanks as underscores
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", code.replace("_", " ")).lower() if code else ""


_ENDED = frozenset({"NonZeroExitCode", "TimeLimit", "InactiveLimit", "OutOfMemory"})


def _plain(reason: str) -> str:
    """A reason as squeue writes it: scontrol and --json have underscores for its blanks."""
    return reason if " " in reason else reason.replace(",_", ", ").replace("_", " ")


def _limit(limit: re.Match[str]) -> str:
    """A limit of an account or a quality of service: ``QOSMaxGRESPerUser``."""
    what = _WHAT[limit["what"].lower()] + ("-minutes" if limit["minutes"] else "")
    whose = {"QOS": "the quality of service", "": "the quality of service"}.get(limit["whose"], "the account")
    if limit["per"] == "User":
        return f"your limit of {what} is reached"
    if limit["per"] == "Account":
        return f"your account's limit of {what} is reached"
    if limit["kind"] == "Min":
        return f"asks for less than {whose}'s least {what}: it never starts"
    if limit["per"] in ("Job", "Node"):
        return f"asks for more {what} than {whose} allows a {limit['per'].lower()}: it never starts"
    if limit["minutes"] in ("Minutes", "Mins"):
        return f"{whose}'s budget of {what} is used up"
    return f"{whose}'s limit of {what} is reached"


def for_maintenance(info: JobInfo) -> bool:
    """Whether a pending job waits because nodes are reserved for maintenance."""
    return info.state.is_pending and "reserved for maintenance" in _plain(info.reason).lower()


def before_maintenance(info: JobInfo, begins: datetime | None, now: datetime) -> str:
    """:data:`MAINTENANCE` with its beginning, and what time limit would end before it."""
    if begins is None or begins <= now:
        return MAINTENANCE
    left = int((begins - now).total_seconds()) // 60
    room = f"{left // 60} h {left % 60:02} min" if left >= 60 else f"{left} min"
    limit = f", it asks for {info.time_limit // 60} min" if info.time_limit else ""
    return (
        f"nodes it needs are reserved for maintenance from {begins:%Y-%m-%d %H:%M}; "
        f"a time limit under {room} would end before{limit}"
    )


def never_starts(info: JobInfo) -> bool:
    """Whether a pending job cannot start unless somebody does something."""
    return held_reason(info) or "never starts" in waiting(info)


def held_reason(info: JobInfo) -> bool:
    """Whether a pending job is held, by whomever."""
    held = info.state in (JobState.REQUEUE_HOLD, JobState.SPECIAL_EXIT)
    return held or ", held:" in waiting(info) or waiting(info).startswith(("held", "requeued and held"))


NO_LOG = 53
"""What a batch job whose output file slurmd could not open has for a signal in sacct and scontrol (0:53)."""


def ending(info: JobInfo) -> str:
    """How a job ended by Slurm's account, in words: ``out of memory on node1 (Slurm: OUT_OF_MEMORY)``."""
    text = ENDS.get(info.state, info.state.name.lower())
    if info.state is JobState.CANCELLED and info.cancelled_by is not None:
        text = f"cancelled by {_person(info.cancelled_by)}"
    if info.node_list:
        text += f" on {info.node_list}"
    details = [f"Slurm: {info.state.name}"]
    if info.exit_signal == NO_LOG:
        details.append("its log could not be opened: a directory that is gone, a full or read-only disk")
    elif info.exit_signal:
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
