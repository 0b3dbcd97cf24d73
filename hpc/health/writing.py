"""How fast this node writes into a directory, fsync included: a small write first, then as much as its speed allows in
about two seconds."""

from __future__ import annotations

import contextlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

FIRST_BYTES = 16 << 20
MOST_BYTES = 256 << 20
"""Of one node; all of them may measure at once."""

SECONDS = 2.0
CHUNK_BYTES = 4 << 20


def write_speed(folder: Path, streams: int = 1, most: int = FIRST_BYTES) -> float:
    """Bytes a second that this node writes; nothing is left behind.

    Args:
        streams: files that are written at once, as the ranks of a node save theirs. The first write is a single one.
        most: bytes to write at most; no second write up to :data:`FIRST_BYTES`.

    Raises:
        OSError: nothing can be written there.
    """
    rate = _written(folder, FIRST_BYTES, 1)
    size = min(most, MOST_BYTES, int(rate * SECONDS))
    if size > FIRST_BYTES:
        with contextlib.suppress(OSError):  # there is no room for so much, which is not what is asked here
            rate = _written(folder, size // streams, streams)
    return rate


def _written(folder: Path, each: int, streams: int) -> float:
    data = os.urandom(min(each, CHUNK_BYTES))
    probes = [folder / f".probe-{os.uname().nodename}-{os.getpid()}-{number}" for number in range(streams)]
    try:
        with ThreadPoolExecutor(streams) as pool:
            started = time.monotonic()
            total = sum(pool.map(partial(_write, data=data, size=each), probes))
            return total / max(1e-9, time.monotonic() - started)
    finally:
        for probe in probes:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)


def _write(probe: Path, data: bytes, size: int) -> int:
    done = 0
    with probe.open("wb") as file:
        while done < size:
            done += file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return done
