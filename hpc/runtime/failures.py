"""Which rank failed first: each leaves word of its own failure, and the first is told from those it pulled down."""

from __future__ import annotations

import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from hpc.core import timestamps
from hpc.core.files import Json, read_json, write_json
from hpc.core.last_words import message_of


def record_failure(folder: Path, rank: int, error: BaseException, *, host: str | None = None) -> None:
    """Leave word of this rank's failure, so that the first of many can be told from those it pulled down.

    ``host``: the node to blame, where it is not this one.
    """
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    record = {
        "time": timestamps.now(),
        "rank": rank,
        "host": host or socket.gethostname(),
        "error": message_of(error),
        "exit_code": getattr(error, "exit_code", None),
        "trace": trace[-8000:],
    }
    try:
        write_json(folder / f"failed-rank-{rank}.json", record)
    except OSError as problem:
        print(f"cannot record the failure of rank {rank}: {problem}", file=sys.stderr)


_LOST_A_PEER = (
    "reset by peer",
    "closed by peer",
    "broken pipe",
    "remote process exit",
    "exit of a remote peer",
    "connection refused",
)


def lost_a_peer(failure: Json) -> bool:
    """Whether a rank's failure is only that it lost another."""
    return any(sign in str(failure["error"]).lower() for sign in _LOST_A_PEER)


def first_failure(
    folder: Path, since: str = "", known: Sequence[Json] = (), ended: Json | None = None
) -> Json | None:
    """The earliest failure that ranks recorded in ``folder`` at or after the time ``since``.

    A rank that was killed, or died before it could, records nothing. Where the others only say that they lost a
    connection, it is the one that the launcher saw ``ended`` badly first (:mod:`hpc.runtime.step_output`), else the one
    of the ``known`` ranks (``rank``, ``host``) that is silent.
    """
    found = [r for p in folder.glob("failed-rank-*.json") if (r := read_json(p)) and str(r["time"]) >= since]
    ranks = {r["rank"] for r in found}
    if ended is not None and ended["rank"] not in ranks and all(lost_a_peer(r) for r in found):
        return ended
    silent = [k for k in known if k["rank"] not in ranks]
    if found and silent and all(lost_a_peer(r) for r in found):
        error = "died without a word (killed; out of memory?); the other ranks lost their connection to it"
        return {"rank": silent[0]["rank"], "host": silent[0]["host"], "error": error}
    return min(found, key=lambda r: str(r["time"]), default=None)
