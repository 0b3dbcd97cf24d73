"""A command on a terminal of its own: what it shows, and the keys that a person presses."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE = 120.0


def _control() -> None:
    """Have the terminal send this process's session its Ctrl-C, which tests started in the background would ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.close(os.open(os.ttyname(0), os.O_RDWR))


class Typed:
    """A running command.

    Attributes:
        said: all that it has shown so far.
    """

    def __init__(self, words: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> None:
        self.terminal, theirs = pty.openpty()
        self.process = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd, start_new_session=True,
            env={**environ, "TERM": "dumb", "COLUMNS": "200"}, preexec_fn=_control,
        )  # fmt: skip
        os.close(theirs)
        self.said = ""
        self.read = 0

    def until(self, words: str, seconds: float = PATIENCE) -> str:
        """Wait for words that come after those that were waited for last; what came before them."""
        end = time.monotonic() + seconds
        while words not in self.said[self.read :]:
            left = end - time.monotonic()
            assert left > 0 and self._more(left), f"{words!r} did not come: {self.said[-3000:]}"
        before, _, _ = self.said[self.read :].partition(words)
        self.read += len(before) + len(words)
        return before

    def _more(self, seconds: float) -> bool:
        """Read what comes; False at the end."""
        if not select.select([self.terminal], [], [], seconds)[0]:
            return False
        try:
            text = os.read(self.terminal, 1 << 16)
        except OSError:  # the terminal's other end is closed
            return False
        self.said += text.decode(errors="replace").replace("\r\n", "\n")
        return bool(text)

    def answer(self, question: str, text: str, seconds: float = PATIENCE) -> None:
        """Wait for a question and type the answer."""
        self.until(f"? {question}", seconds)
        self.until("]: " if "[" in self._rest() else ": ")
        self.type(f"{text}\n")

    def _rest(self) -> str:
        end = time.monotonic() + PATIENCE
        while ": " not in self.said[self.read :]:
            assert self._more(max(0.0, end - time.monotonic())), self.said[-3000:]
        return self.said[self.read :]

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self.terminal, keys.encode())

    def interrupt(self) -> int:
        """Ctrl-C, once what is being shown is shown; the exit code."""
        while self._more(0.2):
            pass
        self.type("\x03")
        return self.end()

    def kill(self) -> None:
        """As a machine that goes down does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.end()

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the end, reading on; the exit code."""
        end = time.monotonic() + seconds
        while self._more(max(0.0, end - time.monotonic())):
            pass
        assert time.monotonic() < end, f"it did not end: {self.said[-3000:]}"
        code = self.process.wait(timeout=PATIENCE)
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1
        return code
