"""Heartbeats: a rank that hangs is told from one that is slow, and from those that only wait for it.

Each rank says what it is doing whenever that changes (:meth:`Heartbeat.report`: a phase, a step, and a count that
grows); a thread writes that to ``<folder>/rank-N.json`` every second or two. While it saves, a folder that grows counts
as a report: writing a large checkpoint may take an hour. The batch process reads the files
(:class:`Watch`). In a collective operation everyone waits for the one that hangs, so all heartbeats stop at about the
same time: the ranks with the lowest count are the ones behind, since all ranks run the same program; of those, the ones
that are not seen waiting inside a collective operation, if there are any.

No clock is compared between nodes: the watcher counts, by its own clock, how long a file's count has not grown.
``SIGUSR2`` makes a rank write the Python stack of all its threads to its log, even where it is stuck in C.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpc.core.files import Json, read_json, write_json

if TYPE_CHECKING:
    from hpc.runtime.stop import StopFlag

STACKS = signal.SIGUSR2
"""The signal at which a rank writes its stacks to its log."""

WRITE_SECONDS = 2.0
SLOW_SECONDS = 900.0
"""The least limit while no steps are made: imports and weights take minutes on a busy file server."""
GROWTH_SECONDS = 10.0
"""How often a growing folder is looked at: every rank asks the file system for its files' sizes."""
ORPHAN_SECONDS = 3.0
"""After SIGTERM, a step that stands still for so long, and for thrice the longest yet, will never end: another rank
died, and the launcher's own SIGKILL comes only after Slurm's KillWait (30 s by default). So will what comes before the
first step; a save is waited for."""
COLLECTIVES = ("/torch/distributed/", "/deepspeed/comm/")
"""Code in which a rank waits for others."""


class Heartbeat:
    """One rank's heartbeat.

    Args:
        folder: where the ranks' files go, on a file system the batch process sees.
        limit: seconds without a report after which this rank counts as hanging while it trains (elsewhere never under
            :data:`SLOW_SECONDS`); the watcher reads it from the file.
        flag: the rank's stop flag, to see that the launcher is ending the step.
    """

    def __init__(
        self, folder: Path, rank: int, world_size: int, limit: float, flag: StopFlag | None = None
    ) -> None:
        self.folder, self.rank, self.world_size, self.limit, self.flag = folder, rank, world_size, limit, flag
        self.phase, self.step, self.count = "starting", 0, 0
        self.last = time.monotonic()
        self.longest = 0.0
        self._end = threading.Event()
        self._growing: Path | None = None
        self._looked, self._size = 0.0, 0

    def start(self) -> Heartbeat:
        """Begin to write, and answer :data:`STACKS` from now on."""
        faulthandler.register(STACKS, file=sys.stderr, all_threads=True)
        self.write()
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()
        return self

    def report(self, phase: str, step: int = 0, growing: Path | None = None) -> None:
        """What this rank does from now on. Costs nothing: the thread writes it.

        Args:
            growing: a folder that all ranks write into during this phase; so long as it grows, all of them live.
        """
        self._growing = growing
        now = time.monotonic()
        if self.phase == "training":
            self.longest = max(self.longest, now - self.last)
        self.phase, self.step, self.count, self.last = phase, step, self.count + 1, now

    def stop(self) -> None:
        """No more reports: the work is over."""
        self._end.set()

    def _run(self) -> None:
        pause = min(WRITE_SECONDS, self.limit / 5)
        while not self._end.wait(pause):
            self._look_at_growth(min(GROWTH_SECONDS, self.limit / 5))
            self.write()
            self._leave_if_alone()

    def _look_at_growth(self, every: float) -> None:
        """A growing folder is a report; ranks that wait for one that still writes see it, too."""
        folder, now = self._growing, time.monotonic()
        if folder is None or now - self._looked < every:
            return
        self._looked, before = now, self._size
        self._size = bytes_below(folder)
        if self._size > before:
            self.count, self.last = self.count + 1, now

    def _limit(self) -> float:
        return self.limit if self.phase == "training" else max(self.limit, SLOW_SECONDS)

    def write(self) -> None:
        """Put the last report on disk."""
        record = {
            "rank": self.rank, "world_size": self.world_size, "host": socket.gethostname(), "pid": os.getpid(),
            "limit": self._limit(), "phase": self.phase, "step": self.step, "count": self.count,
            "in_collective": in_collective(),
        }  # fmt: skip
        file = path(self.folder, self.rank)
        with contextlib.suppress(OSError):  # a full disk must not end the training
            write_json(file, record, durable=False)

    def _leave_if_alone(self) -> None:
        """End this process where it waits for a rank that is gone."""
        told = self.flag.terminated if self.flag is not None else None
        if told is None or self.phase in ("saving", "finishing"):
            return
        now, patience = time.monotonic(), max(ORPHAN_SECONDS, 3 * self.longest)
        if now - told < patience or now - self.last < patience:
            return
        with contextlib.suppress(OSError, ValueError):
            why = f"told to end {now - told:.0f} s ago, and {self.phase} (step {self.step}) does not end"
            print(f"rank {self.rank} leaves: {why}: another rank is gone", file=sys.stderr, flush=True)
        os._exit(128 + signal.SIGTERM)


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder, as far as they can be seen."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # a temporary file that is gone
                total += os.lstat(os.path.join(parent, name)).st_size  # noqa: PTH118 - walk gives strings
    return total


def in_collective() -> bool:
    """Whether this process's main thread is, at this moment, inside a collective operation."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return frame is not None and any(part in frame.f_code.co_filename for part in COLLECTIVES)


def path(folder: Path, rank: int) -> Path:
    """A rank's heartbeat file."""
    return folder / f"rank-{rank}.json"


def read(folder: Path) -> list[Json]:
    """The last heartbeat of every rank that has beaten."""
    return [b for f in sorted(folder.glob("rank-*.json")) if (b := read_json(f))]


@dataclass(frozen=True)
class Hang:
    """Ranks that stopped beating."""

    behind: tuple[Json, ...]
    seconds: float
    world_size: int

    def __str__(self) -> str:
        """One line: who is behind, where, at what, for how long."""
        first = self.behind[0]
        who = f"rank {first['rank']} on {first['host']} (process {first['pid']})"
        if len(self.behind) == self.world_size > 1:
            who = f"all {self.world_size} ranks, rank {first['rank']} on {first['host']} among them,"
        elif len(self.behind) > 1:
            who = (
                f"ranks {', '.join(str(r['rank']) for r in self.behind)}, {first['rank']} on {first['host']},"
            )
        at = f" at step {first['step']}" if first["step"] else ""
        return f"{who} hung while {first['phase']}{at}: no heartbeat for {self.seconds:.0f} s"


class Watch:
    """Reads the heartbeats of one attempt. Ranks that never beat (no file) are not watched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: dict[int, tuple[int, float]] = {}
        shutil.rmtree(folder, ignore_errors=True)  # of an attempt before

    def check(self) -> Hang | None:
        """The hang, where a rank's count has not grown for longer than its limit."""
        now = time.monotonic()
        beats = read(self.folder)
        for beat in beats:
            count = self.seen.get(beat["rank"], (-1, now))[0]
            if beat["count"] != count:
                self.seen[beat["rank"]] = (beat["count"], now)
        still = [b for b in beats if now - self.seen[b["rank"]][1] > b["limit"]]
        if not still:
            return None
        # Someone is over the limit: it is whoever is furthest behind, who may have stopped a little later.
        lowest = min(b["count"] for b in beats)
        behind = [b for b in beats if b["count"] == lowest]
        behind = [b for b in behind if not b.get("in_collective")] or behind
        world_size = int(beats[0]["world_size"])
        if len(beats) < world_size:
            there = {b["rank"] for b in beats}
            absent = [r for r in range(world_size) if r not in there]
            behind = [
                {**beats[0], "rank": r, "host": "?", "pid": "?", "phase": "starting", "step": 0}
                for r in absent
            ]
        longest = max(now - self.seen[b["rank"]][1] for b in still)
        return Hang(tuple(behind), longest, world_size)
