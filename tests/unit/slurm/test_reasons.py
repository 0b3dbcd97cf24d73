"""hpc.slurm.reasons: every reason that Slurm's source has, in words; exit codes in each of their forms."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest

from hpc.slurm import maintenance, reasons
from hpc.slurm.records import SQUEUE_FIELDS, JobInfo, JobState, parse_exit_code, parse_sacct, parse_squeue

from hpc.slurm.records import SACCT_DELIMITER, SACCT_FIELDS  # isort: skip

# Of src/common/job_state_reason.c (Slurm 26.05); those of limits are made of parts there, too.
PLAIN = [
    "AccountNotAllowed", "AccountingPolicy", "BadConstraints", "BeginTime", "BurstBufferOperation",
    "BurstBufferResources", "BurstBufferStageIn", "Cleaning", "Constraints", "DeadLine", "Dependency",
    "DependencyNeverSatisfied", "FedJobLock", "InvalidAccount", "InvalidQOS", "JobArrayTaskLimit", "JobHeldAdmin",
    "JobHeldUser", "JobHoldMaxRequeue", "Licenses", "MaxPoweredUpNodes", "MpiPortsBusy", "NodeDown",
    "NvidiaImexChannels", "PartitionConfig", "PartitionDown", "PartitionInactive", "PartitionNodeLimit",
    "PartitionTimeLimit", "Priority", "Prolog", "QOSNotAllowed", "QOSUsageThreshold", "ReqNodeNotAvail",
    "Reservation", "ReservationDeleted", "ReservationInvalid", "Resources", "SchedDefer", "SystemFailure",
]  # fmt: skip
LIMITS = [
    "AssociationJobLimit", "AssociationResourceLimit", "AssociationTimeLimit", "QOSJobLimit", "QOSResourceLimit",
    "QOSTimeLimit", "AssocGrpCpuLimit", "AssocGrpCPUMinutesLimit", "AssocGrpCPURunMinutesLimit",
    "AssocGrpJobsLimit", "AssocGrpMemLimit", "AssocGrpNodeLimit", "AssocGrpSubmitJobsLimit", "AssocGrpWallLimit",
    "AssocGrpGRES", "AssocGrpGRESMinutes", "AssocGrpGRESRunMinutes", "AssocGrpBB", "AssocGrpLicense",
    "AssocGrpEnergy", "AssocGrpBilling", "AssocGrpUnknown", "AssocMaxJobsLimit", "AssocMaxSubmitJobLimit",
    "AssocMaxCpuPerJobLimit", "AssocMaxCpuMinutesPerJobLimit", "AssocMaxNodePerJobLimit",
    "AssocMaxWallDurationPerJobLimit", "AssocMaxGRESPerJob", "AssocMaxGRESPerNode", "AssocMaxMemPerNode",
    "QOSGrpCpuLimit", "QOSGrpGRES", "QOSGrpGRESMinutes", "QOSGrpGRESRunMinutes", "QOSGrpMemoryMinutes",
    "QOSGrpWallLimit", "QOSGrpSubmitJobsLimit", "QOSMaxCpuPerUserLimit", "QOSMaxJobsPerUserLimit",
    "QOSMaxNodePerUserLimit", "QOSMaxSubmitJobPerUserLimit", "QOSMaxWallDurationPerJobLimit", "QOSMaxGRESPerJob",
    "QOSMaxGRESPerNode", "QOSMaxGRESPerUser", "QOSMaxMemoryPerUser", "QOSMinCpuNotSatisfied", "QOSMinGRES",
    "QOSMinMemory", "MaxGRESPerAccount", "MaxJobsPerAccount", "MaxGRESRunMinsPerUser", "MaxMemoryRunMinsPerAccount",
]  # fmt: skip
NEVER = {
    "AccountNotAllowed", "BadConstraints", "BurstBufferOperation", "DeadLine", "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS", "JobHeldAdmin", "JobHeldUser", "JobHoldMaxRequeue", "PartitionConfig", "PartitionTimeLimit",
    "QOSNotAllowed", "ReservationDeleted", "ReservationInvalid",
}  # fmt: skip


def pending(reason: str, **fields: object) -> JobInfo:
    return JobInfo(id="1", state=JobState.PENDING, reason=reason, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", PLAIN + LIMITS)
def test_every_reason_is_said_in_words(code: str) -> None:
    words = reasons.waiting(pending(code))
    assert len(words.split()) >= 3 and not re.search(r"[a-z][A-Z]", words), words
    if code in LIMITS:
        assert re.search(r"limit of|budget of|share of|asks for (more|less)", words), words


@pytest.mark.parametrize("code", PLAIN)
def test_what_never_starts_by_itself(code: str) -> None:
    assert reasons.never_starts(pending(code)) is (code in NEVER)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("QOSMaxGRESPerUser", "your limit of GPUs is reached"),
        ("AssocGrpGRESMinutes", "the account's budget of GPUs-minutes is used up"),
        ("AssocMaxJobsLimit", "the account's limit of running jobs is reached"),
        ("QOSMaxWallDurationPerJobLimit",
         "asks for more time than the quality of service allows a job: it never starts"),
        ("SomethingQuiteNew", "something quite new"),
        ("Priority,Resources", "jobs of higher priority come first"),
        ("NonZeroExitCode", ""), ("RaisedSignal:15(Terminated)", ""), ("JobLaunchFailure", ""), ("None", ""), ("", ""),
    ],
)  # fmt: skip
def test_words(code: str, words: str) -> None:
    assert reasons.waiting(pending(code)) == words


@pytest.mark.parametrize(
    ("said", "words", "held"),
    [
        ("ReqNodeNotAvail, Reserved for maintenance",
         "reserved for maintenance; a job with a shorter time limit", False),
        ("ReqNodeNotAvail, May be reserved for other job", "may be reserved for another job", False),
        ("ReqNodeNotAvail, UnavailableNodes:node[3,7]", "not available (down, drained or reserved): node[3,7]", False),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
         "down, drained or reserved for partitions of higher priority", False),
        ("uid 1001 not in group permitted to use this partition (gpu). groups allowed: llm", "in no group", False),
        ("launch failed requeued held", "could not be started, held", True),
        ("launch failure limit exceeded requeued held", "could not be started too often, held", True),
        ("user env retrieval failed requeued held", "environment could not be read, held", True),
        ("job requeued in held state", "requeued and held", True),
    ],
)  # fmt: skip
def test_the_second_half_of_a_reason_counts(said: str, words: str, held: bool) -> None:
    for written in (said, said.replace(" ", "_")):  # squeue, scontrol
        assert words.replace("_", " ") in reasons.waiting(pending(written)).replace("_", " ")
        assert reasons.held_reason(pending(written)) is held
    line = {"JobArrayID": "1", "State": "PENDING", "Reason": said}
    assert parse_squeue("".join(line.get(n, "").ljust(w) for n, w in SQUEUE_FIELDS))[0].reason == said


def test_a_maintenance_is_said_with_its_beginning() -> None:
    now = datetime(2026, 11, 30, 6, 0, tzinfo=timezone.utc)
    job = pending("ReqNodeNotAvail, Reserved for maintenance", time_limit=86400)
    assert reasons.for_maintenance(job) and not reasons.never_starts(job)
    said = reasons.before_maintenance(job, now + timedelta(hours=5, minutes=20), now)
    assert (
        "from 2026-11-30 11:20" in said and "under 5 h 20 min would end before, it asks for 1440 min" in said
    )
    assert (
        reasons.before_maintenance(job, None, now)
        == reasons.before_maintenance(job, now, now)
        == reasons.MAINTENANCE
    )


def test_which_reservation_is_the_next_maintenance() -> None:
    text = "\n".join(
        f"ReservationName={name} StartTime={start} EndTime={end} Duration=04:00:00 Flags={flags} State=INACTIVE"
        for name, start, end, flags in (
            ("over", "2026-11-01T08:00:00", "2026-11-01T12:00:00", "MAINT,SPEC_NODES"),
            ("course", "2026-11-30T07:00:00", "2026-11-30T09:00:00", "SPEC_NODES"),
            ("late", "2026-12-24T08:00:00", "2026-12-24T12:00:00", "MAINT"),
            ("next", "2026-11-30T08:00:00", "2026-11-30T12:00:00", "MAINT,OVERLAP,IGNORE_JOBS"),
        )
    )
    now = datetime.fromisoformat("2026-11-30T06:00:00").astimezone()
    assert (
        maintenance.first_maintenance(text, now) == datetime.fromisoformat("2026-11-30T08:00:00").astimezone()
    )
    assert maintenance.first_maintenance("No reservations in the system", now) is None


@pytest.mark.parametrize(
    ("text", "code", "signal"),
    [
        ("7:0", 7, 0), ("0:9", 0, 9), ("1792", 7, 0), ("9", 0, 9), ("0:139", 0, 11), ("0", 0, 0), ("0:0", 0, 0),
        ("", 0, 0), ("N/A", 0, 0), ("35584", 139, 0), (" 7:0 ", 7, 0),
    ],
)  # fmt: skip
def test_exit_codes_in_each_of_their_forms(text: str, code: int, signal: int) -> None:
    assert parse_exit_code(text) == (code, signal)
    row = {"JobArrayID": "33", "State": "FAILED", "exit_code": text, "Reason": "NonZeroExitCode"}
    job = parse_squeue("".join(row.get(n, "").ljust(w) for n, w in SQUEUE_FIELDS))[0]
    assert (job.exit_code, job.exit_signal) == (code, signal)
    told = reasons.ending(job)
    assert (f"exit code {code}" in told) is bool(code) and (f"signal {signal}" in told) is bool(signal)


@pytest.mark.parametrize(
    ("text", "code", "signal"), [("7:0", 7, 0), ("0:9", 0, 9), ("1792", 7, 0), ("", 0, 0)]
)
def test_sacct_reads_them_the_same_way(text: str, code: int, signal: int) -> None:
    row = {"JobID": "33", "State": "FAILED", "ExitCode": text}
    job = parse_sacct(SACCT_DELIMITER.join(row.get(n, "") for n in SACCT_FIELDS))[0]
    assert (job.exit_code, job.exit_signal) == (code, signal)
