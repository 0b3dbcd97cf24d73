"""Sizes as Slurm writes them."""

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
