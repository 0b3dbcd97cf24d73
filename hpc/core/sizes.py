"""Sizes and times as Slurm writes them."""

from __future__ import annotations

import re

_UNIT = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def slurm_bytes(text: str | None) -> int | None:
    """Bytes of a memory size such as ``200G`` (megabytes without a letter); None for none, and for 0: all of a node.

    >>> slurm_bytes("200G"), slurm_bytes("512"), slurm_bytes("0")
    (214748364800, 536870912, None)
    """
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", (text or "").upper())
    return int(match[1]) * _UNIT[match[2]] or None if match else None


def slurm_seconds(text: str) -> int:
    """Seconds of a time limit, in the forms of sbatch's manual (--time): M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    Raises:
        ValueError: it is none.

    >>> slurm_seconds("90"), slurm_seconds("01:30:00"), slurm_seconds("1-12")
    (5400, 5400, 129600)
    """
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash and len(parts) < 3:
        parts = [0, *parts]
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
