"""Which task of a step ended badly first, and what it said last: for ranks that die before they can say so themselves.

srun writes one line for each end (``srun: error: node1: task 1: Exited with exit code 1``) before it ends the others;
:mod:`hpc.runtime.local_launch` writes the same. A rank's last line is in its own log.
"""

from __future__ import annotations

import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import IO

from hpc.core.files import Json
from hpc.core.last_words import said_in, tail_of
from hpc.runtime.stop import EXIT_REQUEUE

_END = re.compile(rb"error: (\S+): tasks? (\d+)[-,\d]*: (Exited with exit code (\d+)|[A-Z].*)")
_SIGNALS = {
    "Killed": 9, "Terminated": 15, "Segmentation fault": 11, "Aborted": 6, "Bus error": 7, "Illegal instruction": 4,
}  # fmt: skip
LOCAL = "local_launch:"
TAIL_BYTES = 16384
DRAIN_SECONDS = 1.0
"""For the last words of a launcher that is gone; a process that it left behind may hold the pipe open for ever."""


def tell(rank: int, code: int) -> str:
    """A rank's end (``code``: negative for a signal) in srun's form."""
    how = f"Exited with exit code {code}"
    if code < 0:
        how = next((word for word, n in _SIGNALS.items() if n == -code), signal.strsignal(-code) or "Killed")
    return f"{LOCAL} error: {socket.gethostname()}: task {rank}: {how}"


class StepOutput:
    """Passes a launcher's stderr on, and keeps the first bad end that it names.

    Args:
        logs: folder of the ranks' logs, ``rank-N.log``, which later attempts append to.
    """

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.begun = {p.name: p.stat().st_size for p in logs.glob("rank-*.log")}
        self.failed: tuple[str, int, int, str] | None = None
        self.stopped: tuple[str, int] | None = None
        self._thread: threading.Thread | None = None

    def follow(self, stream: IO[bytes]) -> None:
        """Begin to read; every line goes to this process's stderr at once."""
        self._thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.take(line)
            if line.startswith(LOCAL.encode()):  # to be read here only
                continue
            sys.stderr.buffer.write(line)
            sys.stderr.flush()

    def take(self, line: bytes) -> None:
        """Look at one line."""
        match = _END.search(line)
        if match is None:
            return
        host, rank, how = match[1].decode(errors="replace"), int(match[2]), match[3].decode(errors="replace")
        word = how.partition(" (")[0].strip()
        code = int(match[4]) if match[4] else 128 + _SIGNALS.get(word, int(signal.SIGKILL))
        if code == EXIT_REQUEUE:
            self.stopped = self.stopped or (host, rank)
        elif self.failed is None and not (self.stopped and word == "Terminated"):  # that is srun's doing
            self.failed = (host, rank, code, word)

    def first(self) -> Json | None:
        """The first task that ended badly, as :func:`hpc.runtime.failures.record_failure` would have recorded it."""
        if self._thread is not None:
            self._thread.join(DRAIN_SECONDS)
        if self.failed is None:
            return None
        host, rank, code, word = self.failed
        killed = not word.startswith("Exited")
        why = {"Killed": "killed; out of memory?", "Terminated": "terminated; was SIGTERM sent to it alone?"}
        how = why.get(word, word.lower()) if killed else f"exit code {code}"
        said = self._last_line(rank, errors_only=killed)
        error = f"{said} ({how})" if said else f"ended without a word: {how}"
        return {"rank": rank, "host": host, "error": error, "exit_code": code, "time": ""}

    def unasked(self) -> Json | None:
        """The first task that stopped as if told to."""
        if self.stopped is None:
            return None
        error = "stopped as if told to, but neither Slurm nor a person told the job: was SIGTERM sent to one rank?"
        return {"rank": self.stopped[1], "host": self.stopped[0], "error": error}

    def _last_line(self, rank: int, *, errors_only: bool) -> str:
        """What the rank says of its end in this attempt: the error that it wrote last, else the last line."""
        path = self.logs / f"rank-{rank}.log"
        lines = tail_of(path, self.begun.get(path.name, 0), TAIL_BYTES).splitlines()
        lines = [line.rstrip() for line in lines if line.strip() and "error: ***" not in line]
        named = [line for line in lines if re.search(r"error\b|Error\b|Exception\b|oom[-_ ]?kill", line)]
        found = named or ([] if errors_only else lines)
        return said_in("\n".join(lines)) or (found[-1].strip()[:300] if found else "")
