"""Ending early without losing work: a signal becomes one stop flag; the exit code says that there is more to do.

Slurm warns before the time limit (``--signal=B:USR1@S``) and at preemption (SIGTERM). The batch process hands either
on to every rank; a rank's handler only sets a flag, since a collective operation inside a signal handler deadlocks.
The training loop asks the flag at each step's end, all ranks agree, save one checkpoint and exit with
:data:`STOPPED`; the batch process then requeues the job under its own id, so dependents keep waiting.
"""

from __future__ import annotations

import signal
from types import FrameType

STOPPED = 85
"""Exit code of a stage that stopped early on request, with everything saved: run it again to go on."""

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class StopFlag:
    """Set by a signal, read by the loop.

    >>> flag = StopFlag()
    >>> flag.requested
    False
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        """True once a stop signal came."""
        return self.signal is not None

    @property
    def reason(self) -> str:
        """The signal's name, or an empty string."""
        return signal.Signals(self.signal).name if self.signal is not None else ""

    def install(self) -> StopFlag:
        """Take over the stop signals of this process. Call before anything slow, so that none is missed."""
        for number in SIGNALS:
            signal.signal(number, self._set)
        return self

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
