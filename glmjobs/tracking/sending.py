"""Send what a tracker does not have yet: open the run there, hand over steps in order, put on record what is there."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from glmjobs.run.directory import Run
from glmjobs.tracking import records, state
from glmjobs.tracking.session import Opening, Session
from glmjobs.tracking.targets import PACKAGES, Target, lacking, target, unreachable
from hpc.core.errors import BadInput, NotFit, WorkFailed
from hpc.core.files import exclusive, read_json, write_json

PATIENCE_SECONDS = 3.0
"""For another process that is about to be done."""

UP_TO = "up-to.json"
"""In each directory that a tracker wrote for being carried elsewhere: the last step in it."""


class Sent(NamedTuple):
    """What one sending came to: steps, and figures of the whole, that were new; the last step there, and where."""

    steps: int
    figures: int
    up_to: int
    where: str


class Outbox:
    """A run's way to one tracker. Hold :func:`held` while it is open. ``ended``: the run trains no more."""

    def __init__(self, run: Run, tracker: str, *, ended: bool = False) -> None:
        self.run, self.tracker, self.ended = run, tracker, ended
        self.state = state.load(run.path, tracker)
        self.environ = {**run.cluster.environment.variables, **self.state.where, **os.environ}
        self.target: Target = target(tracker, self.environ)
        self.session: Session | None = None
        self.staging = state.folder(run.path) / f".{tracker}"
        self.up_to = state.NOTHING
        self.told: dict[str, float] = {}

    def news(self) -> tuple[list[records.Step], dict[str, float]]:
        """Steps and figures of the whole that the tracker does not have."""
        if self.session is None:
            self.up_to, self.told = self._on_record()
        steps = [step for step in records.steps(self.run, ended=self.ended) if step.step > self.up_to]
        summary = records.summary(self.run)
        return steps, {name: value for name, value in summary.items() if self.told.get(name) != value}

    def _on_record(self) -> tuple[int, dict[str, float]]:
        if not self.target.offline:
            there = self.state.sent.get(self.target.name, {})
            return self.state.step(self.target.name), dict(there.get("summary", {}))
        up_to = state.NOTHING
        told: dict[str, float] = {}
        for file in (state.folder(self.run.path) / self.tracker).glob(f"*/{UP_TO}"):
            written = read_json(file) or {}
            up_to = max(up_to, int(written.get("step", state.NOTHING)))
            told |= written.get("summary", {})
        return up_to, told

    def check(self) -> None:
        """Look whether the tracker can be sent to at all.

        Raises:
            BadInput: a person has yet to do something for it.
            NotFit: its package is not here, or there is no way to its server.
        """
        install = f"{sys.executable} -m pip install {PACKAGES[self.tracker][0]}"
        if find_spec(self.tracker) is None:  # before its key: the command that makes one comes with it
            raise NotFit(f"{self.tracker} is not installed here: {install}")
        if self.target.missing:
            raise BadInput(self.target.missing)
        if self.target.needs and find_spec(self.target.needs) is None:
            raise NotFit(lacking(self.target, sys.executable))
        try:
            importlib.import_module(self.tracker)
        except Exception as error:  # a package can fail to import in any way
            raise NotFit(f"{self.tracker} cannot be imported ({_words(error)}): {install}") from None
        if not self.target.offline and (why := unreachable(self.target.url)):
            raise NotFit(why)

    def send(self) -> tuple[int, int]:
        """Hand over what is new, opening the run where it is not; how many steps, and figures of the whole.

        Raises:
            HpcError: as :meth:`check`.
            Exception: whatever the tracker raises.
        """
        steps, summary = self.news()
        if not steps and not summary:
            return 0, 0
        session = self.session or self._open()
        count = 0
        for step in steps:
            if step.step > max(self.up_to, session.has):
                session.step(step)
                count += 1
        self.up_to = max([self.up_to, *(step.step for step in steps)])
        if summary:
            session.summary(summary, self.up_to)
            self.told |= summary
        return count, len(summary)

    def _open(self) -> Session:
        self.check()
        shutil.rmtree(self.staging, ignore_errors=True)  # of a process that was killed
        self.staging.mkdir(parents=True, mode=0o700)
        os.environ.update({name: value for name, value in self.environ.items() if name not in os.environ})
        key = self.run.file.key
        opening = Opening(self.target, key, self.run.name, records.config(self.run), self.staging)
        self.session = open_session(opening)
        return self.session

    def close(self) -> None:
        """Wait until all is there, and put it on record; nothing where nothing was opened."""
        if self.session is None:
            return
        session, self.session = self.session, None
        session.close(finished=self.run.done("train"))
        if self.target.offline:
            self._keep()
        self.state.note(self.target.name, self.up_to, self.told)
        self.state.remember(self.tracker, self.environ)
        self.state.url = session.url or self.state.url
        state.save(self.run.path, self.tracker, self.state)
        shutil.rmtree(self.staging, ignore_errors=True)

    def _keep(self) -> None:
        """The tracker's directory, with the step that it reaches: renamed into place, it counts whole or not."""
        home = state.folder(self.run.path) / self.tracker
        home.mkdir(exist_ok=True)
        for written in sorted(p for p in self.staging.glob("**/*run-*") if p.is_dir() and not p.is_symlink()):
            write_json(written / UP_TO, {"step": self.up_to, "summary": self.told})
            taken = sum(1 for _ in home.glob(f"{written.name}*"))
            written.rename(home / (written.name if not taken else f"{written.name}-{taken}"))

    def failed(self, error: BaseException) -> None:
        """Put on record that it could not be sent, and leave what was opened."""
        self.session = None
        self.state.failures += 1
        self.state.error = _words(error)
        with contextlib.suppress(OSError):
            state.save(self.run.path, self.tracker, self.state)


def open_session(opening: Opening) -> Session:
    """Open the run at its tracker, which is imported now."""
    if opening.target.tracker == "wandb":
        from glmjobs.tracking.to_wandb import WandbSession

        return WandbSession(opening)
    if opening.target.tracker == "swanlab":
        from glmjobs.tracking.to_swanlab import SwanlabSession

        return SwanlabSession(opening)
    from glmjobs.tracking.to_mlflow import MlflowSession

    return MlflowSession(opening)


def sync(run: Run, tracker: str, *, ended: bool = False) -> Sent:
    """Send once what is new. ``ended``: the run trains no more, as :class:`Outbox` takes it.

    Raises:
        BadInput: a person has yet to do something for it; another process is sending; the run cannot be written in.
        NotFit: its package is not here, or there is no way to its server.
        WorkFailed: the tracker does not take it.
    """
    with held(run, tracker, patience=PATIENCE_SECONDS) as alone:
        if not alone:
            raise BadInput(
                f"{tracker}: another process is sending this run, such as its training: nothing to do here"
            )
        outbox = Outbox(run, tracker, ended=ended)
        try:
            with chatter(state.folder(run.path) / f"{tracker}.log"):
                count, figures = outbox.send()
                outbox.close()
        except (BadInput, NotFit) as error:
            outbox.failed(error)
            raise
        except Exception as error:
            outbox.failed(error)
            log = state.folder(run.path) / f"{tracker}.log"
            raise WorkFailed(f"{tracker} did not take it: {_words(error)} (its own words: {log})") from None
        kept = state.folder(run.path) / tracker if outbox.target.offline else None
        return Sent(count, figures, outbox.up_to, str(kept or outbox.state.url or outbox.target.name))


@contextlib.contextmanager
def held(run: Run, tracker: str, *, patience: float = 0.0) -> Iterator[bool]:
    """Alone in sending a run to a tracker; False where another process does.

    Raises:
        BadInput: the run is not one's own to write in.
    """
    with contextlib.ExitStack() as holding:
        try:
            state.folder(run.path).mkdir(exist_ok=True)
            lock = state.folder(run.path) / f".{tracker}.lock"
            alone = holding.enter_context(exclusive(lock, patience=patience))
        except OSError as error:
            raise BadInput(f"{state.folder(run.path)}: cannot be written: {error.strerror}") from None
        yield alone


@contextlib.contextmanager
def chatter(log: Path) -> Iterator[None]:
    """What a tracker and its helpers write to the terminal goes to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with log.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for number, before in enumerate(kept, 1):
            os.dup2(before, number)
            os.close(before)


def _words(error: BaseException) -> str:
    """An error in a line, whole words of it."""
    return textwrap.shorten(str(error) or type(error).__name__, 300, placeholder=" …")
