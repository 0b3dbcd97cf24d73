"""How far a copy has come: a rich bar with GB/s and time left on a terminal, plain lines in a batch log."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

LINE_SECONDS = 10.0  # between plain lines


class ByteProgress:
    """Counts bytes from several threads; shows them on stderr. Use as a context manager.

    Args:
        title: what is being done.
        total: bytes to read in all.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self.done = 0
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> ByteProgress:
        self._start = self._said = time.perf_counter()
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar, self._task = _bar(self.title, self.total)
            self._bar.start()
        return self

    def add(self, read: int, written: int) -> None:
        """``read`` more bytes are done (``written`` came out of them)."""
        with self._lock:
            self.done += read
            now = time.perf_counter()
            if self._bar is not None:
                self._bar.update(self._task, completed=self.done)
            elif now - self._said >= LINE_SECONDS:
                self._said = now
                _say(self.line(now - self._start))

    def line(self, seconds: float) -> str:
        """The state in one line."""
        speed = self.done / max(seconds, 1e-9)
        left = (self.total - self.done) / max(speed, 1.0)
        return (
            f"{self.title}: {self.done / 1e9:.1f} of {self.total / 1e9:.1f} GB, {speed / 1e9:.2f} GB/s, "
            f"{left:.0f} s left"
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._start
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            _say(
                f"{self.title}: {self.done / 1e9:.2f} GB read in {self.seconds:.1f} s, "
                f"{self.done / 1e9 / max(self.seconds, 1e-9):.2f} GB/s"
            )


def _say(line: str) -> None:
    """A line on stderr, where there is one that takes it: the work does not depend on it."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def _bar(title: str, total: int) -> tuple[Any, Any]:
    """rich is imported only where there is a terminal to draw on."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column

    # one line at any width: the bar takes what the figures leave, and a long title is cut first
    whole = Column(no_wrap=True)
    bar = Progress(
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=2),
        ),
        BarColumn(None, table_column=Column(ratio=1)),
        DownloadColumn(table_column=whole),
        TransferSpeedColumn(table_column=whole),
        TimeRemainingColumn(table_column=whole),
        expand=True,
        console=Console(stderr=True),
        refresh_per_second=5,
    )
    return bar, bar.add_task(title, total=total)
