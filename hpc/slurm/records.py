"""What Slurm says about jobs, as plain values: states, host lists, durations, job records. Runs no
command."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum


class JobState(Enum):
    """Slurm's job states (squeue's manual, JOB STATE CODES), and UNKNOWN for what a newer Slurm may say.

    Every state but UNKNOWN is exactly one of pending, active and final.
    """

    BOOT_FAIL = "BF"
    CANCELLED = "CA"
    COMPLETED = "CD"
    CONFIGURING = "CF"
    COMPLETING = "CG"
    DEADLINE = "DL"
    FAILED = "F"
    NODE_FAIL = "NF"
    OUT_OF_MEMORY = "OOM"
    PENDING = "PD"
    PREEMPTED = "PR"
    RUNNING = "R"
    RESV_DEL_HOLD = "RD"
    REQUEUE_FED = "RF"
    REQUEUE_HOLD = "RH"
    REQUEUED = "RQ"
    RESIZING = "RS"
    REVOKED = "RV"
    SIGNALING = "SI"
    SPECIAL_EXIT = "SE"
    STAGE_OUT = "SO"
    STOPPED = "ST"
    SUSPENDED = "S"
    TIMEOUT = "TO"
    LAUNCH_FAILED = "LF"
    UNKNOWN = "?"

    @classmethod
    def parse(cls, text: str) -> JobState:
        """The state in any spelling: ``CANCELLED by 0``, ``CANCELLED+``, ``RUNNING,COMPLETING``, ``CD``,
        ``completed``."""
        words = re.split(r"[\s,+]", text.strip().upper(), maxsplit=1)
        return cls.__members__.get(words[0]) or next((s for s in cls if s.value == words[0]), cls.UNKNOWN)

    @property
    def is_pending(self) -> bool:
        """Waiting for its (next) start, held or not."""
        return self in _PENDING

    @property
    def is_active(self) -> bool:
        """Holding nodes."""
        return self in _ACTIVE

    @property
    def is_final(self) -> bool:
        """Over; only an explicit requeue brings it back."""
        return self is not JobState.UNKNOWN and not self.is_pending and not self.is_active

    @property
    def is_success(self) -> bool:
        """Over, and Slurm saw exit code 0. (A pipe in a script hides a failure from Slurm.)"""
        return self is JobState.COMPLETED


_PENDING = frozenset({
    JobState.PENDING, JobState.REQUEUED, JobState.REQUEUE_HOLD, JobState.REQUEUE_FED,
    JobState.RESV_DEL_HOLD, JobState.SPECIAL_EXIT,
})  # fmt: skip
_ACTIVE = frozenset({
    JobState.RUNNING, JobState.CONFIGURING, JobState.COMPLETING, JobState.RESIZING, JobState.SIGNALING,
    JobState.STAGE_OUT, JobState.STOPPED, JobState.SUSPENDED,
})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class JobInfo:
    """One job, or one element of a job array, as Slurm describes it now."""

    id: str
    """``123``, or ``123_4`` for an array element."""
    state: JobState
    reason: str = ""
    """Why it waits or how it ended, in Slurm's word (``Resources``, ``DependencyNeverSatisfied`` …); ""
    for none."""
    node_list: str = ""
    """As Slurm writes it: ``node[1-2]``; :func:`expand_hosts` takes it apart."""
    exit_code: int = 0
    exit_signal: int = 0
    dependency: str = ""
    """``afterok:12(unfulfilled)``; "" for none. sacct doesn't know it."""
    comment: str = ""
    restarts: int = 0
    """How often it was requeued. sacct doesn't know it."""
    name: str = ""
    output: str = ""
    """Where its output goes; squeue gives the pattern (``…/%j.out``), scontrol the file, sacct nothing."""
    cluster: str = ""
    """Only squeue knows it."""
    partition: str = ""
    submitted: datetime | None = None
    """When it came into the queue, the last time it did: a requeue sets it anew."""
    started: datetime | None = None
    """Actual or, for a pending job, expected."""
    ended: datetime | None = None
    """Actual or, for a running job, by its limit."""
    time_limit: int | None = None
    """Seconds; None if unlimited or unknown."""
    derived_exit_code: int | None = None
    """The highest exit code of its steps, which tells of failures the script swallowed. Only sacct knows
    it."""
    cancelled_by: int | None = None
    """User id of who cancelled it. Only sacct knows it."""
    source: str = "squeue"
    """Which command said so: ``squeue``, ``scontrol``, or ``sacct`` (which can lag behind)."""


# Field of squeue -O, and its width in bytes. The comment is last: people write anything there, even newlines.
SQUEUE_FIELDS = (
    ("JobArrayID", 32), ("State", 24), ("Reason", 160), ("NodeList", 2048), ("exit_code", 16),
    ("RestartCnt", 12),
    ("SubmitTime", 24), ("StartTime", 24), ("EndTime", 24), ("TimeLimit", 20), ("Partition", 64),
    ("Dependency", 4096), ("Name", 256), ("Cluster", 64), ("STDOUT", 1024), ("Comment", 1024),
)  # fmt: skip
SQUEUE_FORMAT = ",".join(f"{name}:{width}" for name, width in SQUEUE_FIELDS)
SACCT_FIELDS = (
    "JobID", "State", "Reason", "NodeList", "ExitCode", "DerivedExitCode", "Submit", "Start", "End",
    "TimelimitRaw",
    "Partition", "JobName", "Comment",
)  # fmt: skip
SACCT_DELIMITER = "\x1f"
_ID = re.compile(r"\d+(_\d+)?$")
_NOTHING = {"", "(null)", "None", "N/A", "Unknown", "None assigned", "(None)"}


def parse_squeue(text: str) -> list[JobInfo]:
    """Job records from ``squeue -h -r -O SQUEUE_FORMAT``."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        cells, raw = [], line.encode()
        for _, width in SQUEUE_FIELDS:
            cells.append(raw[:width].decode(errors="replace").strip())
            raw = raw[width:]
        if _ID.match(cells[0]):
            rows.append(cells)
        elif rows:  # a newline in a comment
            rows[-1][-1] += "\n" + line.rstrip()
    return [_from_squeue(dict(zip((name for name, _ in SQUEUE_FIELDS), row, strict=True))) for row in rows]


def _from_squeue(row: dict[str, str]) -> JobInfo:
    code, sig = parse_exit_code(row["exit_code"])
    return JobInfo(
        id=row["JobArrayID"],
        state=JobState.parse(row["State"]),
        reason=_text(row["Reason"]),
        node_list=_text(row["NodeList"]),
        exit_code=code,
        exit_signal=sig,
        dependency=_text(row["Dependency"]),
        comment=_text(row["Comment"]),
        restarts=int(row["RestartCnt"]) if row["RestartCnt"].isdigit() else 0,
        name=row["Name"],
        cluster=_text(row["Cluster"]),
        output=_text(row["STDOUT"]),
        partition=row["Partition"],
        submitted=parse_time(row["SubmitTime"]),
        started=parse_time(row["StartTime"]),
        ended=parse_time(row["EndTime"]),
        time_limit=parse_duration(row["TimeLimit"]),
    )


def parse_sacct(text: str) -> list[JobInfo]:
    """Job records from ``sacct -n -X -P --delimiter=SACCT_DELIMITER -o SACCT_FIELDS``."""
    jobs = []
    for line in text.split("\n"):
        row = dict(zip(SACCT_FIELDS, line.split(SACCT_DELIMITER), strict=False))
        if len(row) < len(SACCT_FIELDS) or not _ID.match(row["JobID"]):
            continue  # the rest of a comment, or pending array elements (12_[3-9]), which squeue lists singly
        code, sig = parse_exit_code(row["ExitCode"])
        derived = row["DerivedExitCode"].partition(":")[0]
        limit = row["TimelimitRaw"]
        jobs.append(
            JobInfo(
                id=row["JobID"],
                state=JobState.parse(row["State"]),
                reason=_text(row["Reason"]),
                node_list=_text(row["NodeList"]),
                exit_code=code,
                exit_signal=sig,
                comment=_text(row["Comment"]),
                name=row["JobName"],
                partition=row["Partition"],
                submitted=parse_time(row["Submit"]),
                started=parse_time(row["Start"]),
                ended=parse_time(row["End"]),
                time_limit=60 * int(limit) if limit.isdigit() else None,
                derived_exit_code=int(derived) if derived.isdigit() else None,
                cancelled_by=int(who[1]) if (who := re.search(r"by (\d+)", row["State"])) else None,
                source="sacct",
            )
        )
    return jobs


def summary(array_id: str, elements: Sequence[JobInfo]) -> JobInfo:
    """One record for a whole job array: active if any element is, else pending if any is, else the worst
    end."""

    def rank(job: JobInfo) -> int:
        state = job.state
        return 0 if state.is_active else 1 if state.is_pending else 3 if state.is_success else 2

    chosen = min(elements, key=rank)
    starts = [job.started for job in elements if job.started]
    return JobInfo(**{**vars(chosen), "id": array_id, "started": min(starts, default=None)})


def parse_show(text: str) -> dict[str, str]:
    """Key → value of one ``scontrol show job -o`` record. Values may hold spaces; of a repeated key the
    first counts (a comment written to look like one comes after the true ones)."""
    matches = list(re.finditer(r"(?:^|\s)([A-Za-z][\w/:.]*)=", text))
    found: dict[str, str] = {}
    for match, following in itertools.zip_longest(matches, matches[1:]):
        value = text[match.end() : following.start() if following else len(text)].strip()
        found.setdefault(match[1], value)
    return found


def parse_shown(text: str) -> list[JobInfo]:
    """Job records from ``scontrol show job -o ID``: one, or one for each element of an array, those too that still
    share a record (``ArrayTaskId=2-9%4``)."""
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("JobId=") or not lines:
            lines.append(line)
        else:  # a newline in a comment
            lines[-1] += "\n" + line
    return [info for line in lines if (row := parse_show(line)).get("JobId") for info in _from_show(row)]


def _from_show(row: dict[str, str]) -> list[JobInfo]:
    code, sig = parse_exit_code(row.get("ExitCode", ""))
    array, tasks = row.get("ArrayJobId", ""), task_numbers(row.get("ArrayTaskId", ""))
    info = JobInfo(
        id=row["JobId"],
        state=JobState.parse(row.get("JobState", "")),
        reason=_text(row.get("Reason", "")),
        node_list=_text(row.get("NodeList", "")),
        exit_code=code,
        exit_signal=sig,
        dependency=_text(row.get("Dependency", "")),
        comment=_text(row.get("Comment", "")),
        restarts=int(row["Restarts"]) if row.get("Restarts", "").isdigit() else 0,
        name=row.get("JobName", ""),
        output=_text(row.get("StdOut", "")),
        partition=row.get("Partition", ""),
        submitted=parse_time(row.get("SubmitTime", "")),
        started=parse_time(row.get("StartTime", "")),
        ended=parse_time(row.get("EndTime", "")),
        time_limit=parse_duration(row.get("TimeLimit", "")),
        source="scontrol",
    )
    return [replace(info, id=f"{array}_{task}") for task in tasks] if array and tasks else [info]


def task_numbers(text: str) -> list[int]:
    """The elements that a record of an array is of: ``0-3,7%2`` → 0 1 2 3 7; ``0-8:4`` → 0 4 8."""
    found: list[int] = []
    for part in text.partition("%")[0].split(","):
        if match := re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", part):
            first = int(match[1])
            found += range(first, int(match[2] or first) + 1, int(match[3] or 1))
    return found


def parse_submitted(text: str) -> tuple[str, str] | None:
    """Job id and cluster ("" where it names none) from what ``sbatch --parsable`` printed, or a site's wrapper of it;
    None where no line is such an answer.

    Sites print banners before and after, and wrappers make ``Submitted batch job 7 on cluster west`` of ``7;west``. The
    last line that is nothing but an answer counts: a number within a sentence never does.
    """
    answer = r"(?:Submitted batch job )?(\d+)(?:;(\S*)| on cluster (\S+))?"
    found = [m for line in text.splitlines() if (m := re.fullmatch(answer, line.strip()))]
    return (found[-1][1], found[-1][2] or found[-1][3] or "") if found else None


def parse_exit_code(text: str) -> tuple[int, int]:
    """Exit code and signal: ``7:0`` and ``0:9`` (sacct, scontrol, squeue from 24.11 on), or one number as wait(2)
    gives it (squeue before: 1792, 9). (0, 0) for what is neither."""
    code, colon, sig = text.strip().partition(":")
    if colon:
        return int(code) if code.isdigit() else 0, int(sig) & 0x7F if sig.isdigit() else 0
    status = int(code) if code.isdigit() else 0
    return status >> 8, status & 0x7F


def parse_time(text: str) -> datetime | None:
    """Slurm's local time ``2026-11-24T20:41:18`` with this machine's offset; None for N/A, Unknown …"""
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except ValueError:
        return None


def parse_duration(text: str) -> int | None:
    """Seconds of ``days-HH:MM:SS``, ``HH:MM:SS`` or ``MM:SS``; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def parse_gres(text: str, name: str = "gpu") -> list[tuple[str, int]]:
    """(type, count) of each GPU entry of a node's Gres: ``gpu:a100:8(S:0-1),shard:16`` → [("a100", 8)].
    The type is "" where none is configured. ``name``: the site's name for GPUs."""
    found = []
    for entry in _gres_entries(text):
        match = re.fullmatch(
            re.escape(name) + r"(?::([^:(]*[^\d:(][^:(]*))?(?::(\d+))?(?:\(.*\))?", entry.strip()
        )
        if match:
            found.append((match[1] or "", int(match[2] or 1)))
    return found


def parse_gres_names(text: str) -> list[str]:
    """The names in a node's Gres: ``gpu:a100:8(S:0-1),shard:16`` → ["gpu", "shard"]."""
    return [name for entry in _gres_entries(text) if (name := re.split(r"[:(]", entry.strip())[0])]


def _gres_entries(text: str) -> list[str]:
    return re.split(r",(?![^(]*\))", text)


def _text(value: str) -> str:
    return "" if value in _NOTHING else value
