"""Why a job waits, with the beginning of the maintenance that it waits for, as the reservations tell."""

from __future__ import annotations

import functools
import time
from datetime import datetime

from hpc.core.errors import HpcError
from hpc.slurm import client, reasons
from hpc.slurm.records import JobInfo, parse_show, parse_time


def waiting(info: JobInfo) -> str:
    """Why a pending job waits, in words, as :func:`hpc.slurm.reasons.waiting`; Slurm is asked only where it is for a
    maintenance, once a minute however many jobs wait for it."""
    if not reasons.for_maintenance(info):
        return reasons.waiting(info)
    begins = _next_maintenance(int(time.monotonic() // 60))
    return reasons.before_maintenance(info, begins, datetime.now().astimezone())


@functools.lru_cache(maxsize=1)
def _next_maintenance(minute: int) -> datetime | None:
    try:
        text = client.run(["scontrol", "show", "reservation", "-o"], pauses=(), timeout=10)
    except HpcError:
        return None
    return first_maintenance(text, datetime.now().astimezone())


def first_maintenance(text: str, now: datetime) -> datetime | None:
    """The beginning of the first maintenance that is not over, from ``scontrol show reservation -o``; None: none is."""
    begins = []
    for line in text.splitlines():
        found = parse_show(line)
        start, end = parse_time(found.get("StartTime", "")), parse_time(found.get("EndTime", ""))
        if start and end and end > now and "MAINT" in found.get("Flags", "").split(","):
            begins.append(start)
    return min(begins, default=None)
