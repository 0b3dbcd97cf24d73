"""What the pages show, read from run directories and kept until their files change.

It only reads: neither Slurm nor a run notices that it is looked at. A page is made again when one of its files has
changed, and never so often that making it takes more than a tenth of a core.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glmjobs import score
from glmjobs.live import pages
from glmjobs.reporting.document import document
from glmjobs.reporting.load import load_facts
from glmjobs.run import index, locate, log_files
from glmjobs.run.directory import Run
from glmjobs.run.locate import RunPath
from glmjobs.run.progress import last_rows
from glmjobs.run.read_state import read_state, read_states, tail
from glmjobs.run.state import RunState
from hpc.core.errors import HpcError
from hpc.core.files import newest_mtime

SHARE = 0.1
"""Of one core, at the most, for making one page again and again."""

LOG_LINES = 40
ANSWERS = 20
ANSWER_BYTES = 1 << 16

SOURCES = ("", "stages", "checkpoints", "gpu", "model")
"""Folders of a run whose files a page is made from, besides logs and scores."""

Signature = tuple[tuple[str, int, int], ...]


@dataclass
class View:
    """A page as it was last made."""

    html: str = ""
    version: str = ""
    signature: Signature | None = None
    again: float = 0.0
    """Not before this time (``time.monotonic``)."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def current(self, look: Callable[[], Signature], make: Callable[[], str]) -> View:
        """The page now. One thread makes it; those that ask meanwhile get the same."""
        with self.lock:
            if self.html and time.monotonic() < self.again:
                return self
            began = time.monotonic()
            seen = look()
            if not self.html or seen != self.signature:
                self.html, self.signature = make(), seen
                self.version = hashlib.sha256(self.html.encode("utf-8", "replace")).hexdigest()[:16]
            ended = time.monotonic()
            self.again = ended + (ended - began) * (1 / SHARE - 1)
            return self


class Views:
    """The pages of some runs, or of all.

    Args:
        runs: those to show; empty: all under the folder of runs, with those that come.
    """

    def __init__(self, runs: Sequence[RunPath] = ()) -> None:
        self.runs = list(runs)
        self.index = _OwnIndex(locate.parent())
        self.views: dict[str, View] = {}

    def named(self) -> dict[str, RunPath]:
        """The runs by the name that each has in addresses; of two of the same name the second is ``name~2``."""
        found: dict[str, RunPath] = {}
        for run in self.runs or locate.directories():
            key, number = run.path.name, 1
            while key in found:
                number += 1
                key = f"{run.path.name}~{number}"
            found[key] = run
        return found

    def overview(self) -> View:
        """The page of all runs."""
        named = self.named()
        paths = [run.path for run in named.values()]

        def look() -> Signature:
            return _signature(path / name for path in paths for name in ("", *index.SOURCES))

        def make() -> str:
            states = read_states(named.values(), ask_slurm=False, index=self.index)
            where = ", ".join(str(path) for path in paths) if self.runs else str(locate.parent())
            return pages.overview(dict(zip(named, states, strict=True)), where)

        return self._view("").current(look, make)

    def run(self, key: str) -> View | None:
        """The page of one run; None: there is none of this name."""
        found = self.named()
        if (run := found.get(key)) is None:
            return None
        files = lambda: _signature(_files(run.path))  # noqa: E731 - the counterpart of the next line
        return self._view(key).current(files, lambda: _run_page(run, many=len(found) > 1))

    def _view(self, key: str) -> View:
        return self.views.setdefault(key, View())


class _OwnIndex(index.Index):
    """What is known of runs that stand still, in memory alone: who only looks writes nothing."""

    def save(self) -> None:
        self.entries, self.kept = self.kept, {}


def _run_page(run: RunPath, *, many: bool) -> str:
    state = read_state(run, ask_slurm=False)
    settings: dict[str, Any] = {}
    anchor = None
    try:
        opened = Run.open(run.path)
        settings, anchor = opened.file.model_dump(mode="json"), score.anchor_for(opened.recipe)
    except HpcError:  # of another version, say: what its files tell is shown all the same
        pass
    made = document(load_facts(run.path, settings), anchor=anchor)
    return pages.run(
        state, made, pages.answers_table(newest_answers(run.path)), log_tails(run.path, state), many=many
    )


def newest_answers(run: Path) -> list[dict[str, Any]]:
    """The last scored rows of the files that are being written, or were written last; each with its ``model``."""
    files = sorted((run / "scores").rglob("predictions.shard-*-of-*.jsonl"), key=_mtime)[-8:]
    each = max(1, ANSWERS // max(1, len(files)))
    return [
        {**row, "model": str(file.parent.relative_to(run / "scores"))}
        for file in files
        for row in last_rows(file, ANSWER_BYTES)[-each:]
    ]


def log_tails(run: Path, state: RunState) -> list[pages.LogTail]:
    """The ends of the logs that one most likely wants: the job's output, and the rank that failed, or rank 0."""
    stage = log_files.choose(state)
    files = log_files.logs(run, stage, None)
    outputs = sorted((f for f in files if f.suffix == ".out"), key=_mtime)[-1:]
    wanted = log_files.first_failed(run, stage) or 0
    ranks = [f for f in files if f.suffix == ".log" and log_files.rank_of(f) == wanted]
    return [pages.LogTail(str(f.relative_to(run)), tail(f, LOG_LINES)) for f in (*outputs, *ranks)]


def _files(run: Path) -> Iterator[Path]:
    for name in SOURCES:
        yield from _inside(run / name)
    for stage in _inside(run / "jobs"):
        yield from (file for file in _inside(stage) if file.suffix in (".log", ".out"))
    yield from (run / "scores").rglob("*.json*")


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _signature(files: Iterable[Path]) -> Signature:
    found = []
    for file in files:
        try:
            seen = file.stat()
            found.append((str(file), seen.st_size, seen.st_mtime_ns))
        except OSError:
            found.append((str(file), -1, 0))
    return tuple(found)


def _mtime(file: Path) -> float:
    return newest_mtime([file]) or 0.0
