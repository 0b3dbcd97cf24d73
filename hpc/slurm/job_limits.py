"""How many jobs a user may have in the queue, and has: what the controller and, where it enforces them, the limits of
associations and QOS say. What Slurm does not tell is left out."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hpc.slurm import client as slurm

SETTING = re.compile(r"(\w+)\s*=\s*(.*)")
PATIENCE = 20.0


@dataclass(frozen=True)
class JobLimit:
    """A limit: what sets it, how many jobs may be in the queue, and how many are that it counts (None: others' count,
    too)."""

    of: str
    most: int
    held: int | None = None

    @property
    def room(self) -> int:
        """How many more there may be."""
        return self.most - (self.held or 0)

    def __str__(self) -> str:
        held = f", {self.held} are there" if self.held else ""
        return f"{self.of}: {self.most} jobs in the queue{held}"


def job_limits(
    account: str | None = None, qos: str | None = None, *, env: Mapping[str, str] | None = None
) -> list[JobLimit]:
    """The limits on the jobs of this user, the tightest first; each element of an array is a job.

    Args:
        account: that the jobs name; None: the user's default.
        qos: likewise.

    Raises:
        HpcError: Slurm does not answer.
    """
    settings = dict(SETTING.findall(_run(["scontrol", "show", "config"], env)))
    found = []
    if (most := settings.get("MaxJobCount", "").strip()).isdigit():
        found.append(JobLimit("MaxJobCount of the cluster", int(most)))
    enforced = re.split(r"[,\s]+", settings.get("AccountingStorageEnforce", "").lower())
    if {"limits", "safe"} & set(enforced):
        found += _of_accounting(account, qos, env)
    return sorted(found, key=lambda limit: limit.room)


def _of_accounting(account: str | None, qos: str | None, env: Mapping[str, str] | None) -> list[JobLimit]:
    user = getpass.getuser()
    account = account or _run(["sacctmgr", "-nP", "show", "user", user, "format=defaultaccount"], env).strip()
    lines = _run(
        [
            "sacctmgr", "-nP", "show", "assoc", f"user={user}", f"account={account}",
            "format=partition,maxsubmit,defaultqos,qos",
        ],
        env,
    ).splitlines()  # fmt: skip
    rows = [line.split("|") for line in lines if line.count("|") == 3]
    queue = [line.split("|") for line in _run(["squeue", "-hr", "-u", user, "-o", "%a|%q"], env).splitlines()]
    found = []
    for partition, most, _, _ in rows:
        if most.isdigit() and not partition:
            held = sum(one[0] == account for one in queue)
            found.append(JobLimit(f"account {account} of {user}", int(most), held))
    named = {row[2] or (row[3] if "," not in row[3] else "") for row in rows} - {""}
    qos = qos or (named.pop() if len(named) == 1 else None)
    if qos:
        line = _run(["sacctmgr", "-nP", "show", "qos", qos, "format=maxsubmitpu,maxsubmitpa,grpsubmit"], env)
        each = [*line.strip().split("|"), "", "", ""]
        if each[0].isdigit():
            found.append(JobLimit(f"QOS {qos} a user", int(each[0]), sum(one[-1] == qos for one in queue)))
        for whose, most in (("an account", each[1]), ("in all", each[2])):
            if most.isdigit():
                found.append(JobLimit(f"QOS {qos} {whose}", int(most)))
    return found


def _run(words: list[str], env: Mapping[str, str] | None) -> str:
    return slurm.run(words, pauses=(), timeout=PATIENCE, env=env)
