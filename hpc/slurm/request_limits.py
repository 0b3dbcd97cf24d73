"""What one job may ask for at most, as far as Slurm tells it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from hpc.slurm import client as slurm

PATIENCE = 20.0


def array_limit(*, env: Mapping[str, str] | None = None) -> int | None:
    """How many elements an array, counted from 0, can have: MaxArraySize; None where Slurm does not tell.

    Raises:
        HpcError: Slurm does not answer.
    """
    text = slurm.run(["scontrol", "show", "config"], pauses=(), timeout=PATIENCE, env=env)
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)\s*$", text, re.M)
    return int(found[1]) if found else None


def time_limits(partition: str | None = None, *, env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The longest time limit of a job in each of these partitions, as Slurm writes it; None: in the default one.

    Raises:
        HpcError: Slurm does not answer.
    """
    chosen = ["-p", partition] if partition else []
    text = slurm.run(["sinfo", "-h", "-o", "%P %l", *chosen], pauses=(), timeout=PATIENCE, env=env)
    found = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    return {name.rstrip("*"): most for name, most in found.items() if partition or name.endswith("*")}
