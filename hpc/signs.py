"""Signs of life: when files were last written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path


def newest(files: Iterable[Path]) -> float | None:
    """Unix seconds at which the last of the files was written; None where none of them can be looked at."""
    times = []
    for file in files:
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times, default=None)
