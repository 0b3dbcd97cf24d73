"""Whose job it is that Slurm shows under a number on record.

A job's number is no proof: a controller that lost its state gives numbers anew, a second cluster on the same file
system has the same ones, and a counter wraps. So what is on record of a job is a :class:`Claim`, and :func:`is_ours`
alone says whether what Slurm shows fulfils it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from hpc.slurm.records import JobInfo

MARK = re.compile(r"[\w.-]+:[0-9a-f]{16}:[\w.-]+")
"""A comment as chains write it: name, key, stage."""

SKEW = timedelta(seconds=5)
"""Between the clocks of a login node and of the controller, where the controller's own time is not on record."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is on record of a job that was submitted.

    Attributes:
        comment: what it was given to carry; "" for one that was submitted by hand.
        name, output, submitted: as Slurm showed them then; "" and None where it did not answer.
        recorded: when its submission was put on record.
        cluster: the cluster's name; "" where it is not on record.
        attempts: its array's elements are so many attempts, one after the other; 1: they are pieces of its work.
        named: Slurm's commands have to be told the cluster's name: it was not the default one.
    """

    job: str
    comment: str = ""
    name: str = ""
    output: str = ""
    submitted: datetime | None = None
    recorded: datetime | None = None
    cluster: str = ""
    named: bool = False
    attempts: int = 1


def is_ours(job: JobInfo, claim: Claim) -> bool:
    """Whether the job that Slurm shows is the one on record.

    The comment decides where it carries a chain's mark. A site may strip or replace comments, and sacct shows none
    without ``AccountingStoreFlags=job_comment``: then name, output and time of submission have to agree, as far as the
    command shows them.
    """
    words = re.split(r"[\s,;|]+", job.comment)
    if claim.comment and claim.comment in words:
        return True
    if any(MARK.fullmatch(word) for word in words):
        return False
    compared = bool(claim.output and job.output)
    if compared and _plain(claim.output) != _plain(job.output):
        return False
    if claim.name and job.name != claim.name:
        return False
    return _same_time(job, claim, compared)


def _same_time(job: JobInfo, claim: Claim, same_output: bool) -> bool:
    """A requeue sets the time anew; that it was ours before, only the output can tell then."""
    if job.submitted is None:
        return False
    if claim.submitted is not None:
        later = job.restarts > 0 and job.submitted > claim.submitted
        return job.submitted == claim.submitted or (later and same_output)
    if claim.recorded is None or not same_output:
        return False
    return abs(job.submitted - claim.recorded) <= SKEW or (
        job.restarts > 0 and job.submitted > claim.recorded
    )


def _plain(path: str) -> str:
    """A job's output without its numbers: squeue shows ``x/%A_%a.out`` where scontrol shows ``x/12_3.out``."""
    folder, name = os.path.split(path)
    return folder.replace("%%", "%") + "/" + re.sub(r"%\d*[a-zA-Z]|\d+", "#", name)
