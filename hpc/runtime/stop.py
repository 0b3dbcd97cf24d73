"""Ending early without losing work: a signal becomes one stop flag; the exit code says that there is more to do.

Slurm warns before the time limit (``--signal=B:USR1@S``, to the batch process) and at preemption (SIGTERM, to the
ranks). The batch process hands what it gets on to every rank; a rank's handler only sets a flag, since a collective
operation inside a signal handler deadlocks. The training loop asks the flag at each step's end, all ranks agree, save
one checkpoint and exit with :data:`STOPPED`; the batch process then requeues the job under its own id, so dependents
keep waiting. Before the first step there is nothing to save: :class:`StopRequested` ends a warm-up at once.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_REQUEUE = 85
"""Exit code of a stage that stopped early on request, with everything saved: run it again to go on."""

EXIT_FATAL = 86
"""Exit code of a stage that failed in a way that the same attempt would only repeat, such as a loss that is NaN."""

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class StopRequested(BaseException):
    """A stop signal came while there was nothing to save. Not an ``Exception``: no library is to swallow it."""


class StopFlag:
    """Set by a signal, read by the loop.

    >>> flag = StopFlag()
    >>> flag.requested
    False
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.terminated: float | None = None
        """When SIGTERM came (``time.monotonic``): the launcher may be ending this step because another rank died."""
        self.raising = False

    @property
    def requested(self) -> bool:
        """True once a stop signal came."""
        return self.signal is not None

    @property
    def reason(self) -> str:
        """The signal's name, or an empty string."""
        return signal.Signals(self.signal).name if self.signal is not None else ""

    def install(self) -> StopFlag:
        """Take over the stop signals of this process, and the first Ctrl-C. Call before anything slow."""
        for number in (*SIGNALS, signal.SIGINT):
            signal.signal(number, self._set)
        return self

    @contextmanager
    def nothing_to_save(self) -> Iterator[None]:
        """Within, a stop signal (one that came before, too) ends the block with :class:`StopRequested` at once."""
        self.raising = True
        try:
            self.check()
            yield
            self.check()  # a library that swallows everything may have swallowed it
        finally:
            self.raising = False

    def check(self) -> None:
        """Raise :class:`StopRequested` where a stop signal has come."""
        if self.requested:
            raise StopRequested(self.reason)

    def _set(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = number
        if number == signal.SIGINT:
            signal.signal(
                signal.SIGINT, signal.default_int_handler
            )  # whoever asks twice does not want to wait
        if number == signal.SIGTERM:
            self.terminated = time.monotonic()
        if self.raising:
            raise StopRequested(self.reason)
