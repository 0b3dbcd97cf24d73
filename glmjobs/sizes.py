"""Sizes in bytes as people write them."""

from __future__ import annotations

import re
import sys

from glmjobs.errors import BadInput

# The largest weight file. A file is hashed by one core at a time: several files keep several cores at it.
SHARD_SIZE = "2GB"
_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
}


def parse_size(text: str) -> int:
    """Bytes of a size such as "5GB", "500MB" or "2GiB" (GB is 10^9, as transformers counts).

    Raises:
        BadInput: not a size above zero.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    number = float(match[1]) if match else 0.0
    size = int(number * unit) if unit and number < 1e18 else 0
    if not 0 < size <= sys.maxsize:
        raise BadInput(f"{text[:80]!r} is no size: write a number and a unit, such as 5GB or 500MB")
    return size
