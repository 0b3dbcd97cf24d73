"""Curves while they grow: a process for each tracker beside the first rank, which it cannot hold up.

It reads the run directory, is told of the training's end by its closed input, and then has :data:`LAST_SECONDS` for
what is left. What it does not get done is sent by the next attempt, by the report stage, or by
``python -m glmjobs.track sync``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from glmjobs.run.directory import Run
from glmjobs.tracking import state
from glmjobs.tracking.sending import Outbox, held
from hpc.core import timestamps

EVERY_SECONDS = 10.0
"""Between two looks at the log."""

AGAIN_SECONDS = (30.0, 1800.0)
"""After a failure: doubled with each, up to the second."""

LAST_SECONDS = 60.0


def start(run: Run) -> None:
    """Start the processes of the trackers that the recipe names; what goes wrong is said, and that is all."""
    for tracker in run.recipe.track:
        try:
            state.folder(run.path).mkdir(exist_ok=True)
            with (state.folder(run.path) / f"{tracker}.log").open("ab") as log:
                subprocess.Popen(
                    [sys.executable, "-m", "glmjobs.track", "follow", str(run.path), "--to", tracker],
                    stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True, preexec_fn=_aside,
                    env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                )  # fmt: skip
        except OSError as error:
            print(f"warning: {tracker} is not sent to while it trains: {error}", file=sys.stderr)


def _aside() -> None:
    """Out of the way of the training: last in turn, and deaf to the signals that are meant for it."""
    os.nice(10)
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def last(run: Run) -> None:
    """Send what is left, from a stage that has done its work: in a process of its own, within :data:`LAST_SECONDS`."""
    for tracker in run.recipe.track:
        command = [sys.executable, "-m", "glmjobs.track", "sync", str(run.path), "--to", tracker]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace",
                timeout=LAST_SECONDS,
            )  # fmt: skip
            said = (done.stdout + done.stderr).strip().removeprefix("error: ")
        except subprocess.TimeoutExpired:
            said = f"{tracker} took no answer within {LAST_SECONDS:.0f} s"
        except OSError as error:
            said = f"{tracker}: {error.strerror}"
        print(f"track: {said}", file=sys.stderr)


def follow(run: Run, tracker: str) -> int:
    """Send as the log grows, until the training's process is gone."""
    gone = threading.Event()
    threading.Thread(target=_watch, args=(gone,), daemon=True).start()
    following = Following(run, tracker)
    while not following.over:
        following.over = gone.wait(following.seconds)
        following.look()
    return 0


def _watch(gone: threading.Event) -> None:
    """Tell that the training's process is gone; :data:`LAST_SECONDS` later end this one and the tracker's helpers,
    whatever they are waiting for."""
    while os.read(0, 1):  # nothing is written to it: it ends with whoever holds the other end
        pass
    gone.set()
    time.sleep(LAST_SECONDS)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class Following:
    """One tracker's sending beside a training.

    Attributes:
        over: the training has ended.
        seconds: until the next look.
    """

    def __init__(self, run: Run, tracker: str) -> None:
        self.run, self.tracker = run, tracker
        self.over, self.seconds = False, EVERY_SECONDS
        self.holding = contextlib.ExitStack()
        self.outbox: Outbox | None = None

    def look(self) -> None:
        """Send what is new; a failure is written down, and its next try put off."""
        try:
            if self.outbox is None and not self._begin():
                return
            assert self.outbox is not None
            if self.over or not self.outbox.target.offline:  # nobody looks at files while they grow
                self.outbox.send()
            if self.over:
                self.outbox.close()
                self.holding.close()
            self.seconds = EVERY_SECONDS
        except Exception as error:
            self._fail(error)

    def _begin(self) -> bool:
        self.holding = contextlib.ExitStack()
        patience = LAST_SECONDS / 2 if self.over else 0.0  # the attempt before this one may be at its last
        if not self.holding.enter_context(held(self.run, self.tracker, patience=patience)):
            self.holding.close()
            return False
        self.outbox = Outbox(self.run, self.tracker)
        return True

    def _fail(self, error: Exception) -> None:
        if self.outbox is not None:
            self.outbox.failed(error)
        self.outbox = None
        self.holding.close()
        self.seconds = min(AGAIN_SECONDS[1], max(AGAIN_SECONDS[0], 2 * self.seconds))
        print(f"{timestamps.now()} {self.tracker}: {error}", file=sys.stderr, flush=True)


def remarks(run: Run) -> Sequence[str]:
    """For the log of a training that has ended: what could not be sent while it trained."""
    return [f"track: {said}" for said in state.troubles(run.path)]
