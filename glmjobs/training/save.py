"""Saving a checkpoint so that nothing is lost when the disk fails: it counts once all of it is there, or not at all.

Room is looked for first. A rank that cannot write keeps the error and goes on through DeepSpeed's collectives, so that
nobody waits for it for ever; then all ranks agree. Where one has failed, the save is dropped on all of them, the
checkpoints before it stay as they are, and training goes on.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glmjobs.training.agreement import Agreement, Problem
from glmjobs.zero import committed
from hpc.core.room import free_bytes

SPARE = 1.02
"""Room wanted over the size of the last checkpoint: its small files grow."""

ROOM_PATIENCE, ROOM_PAUSE = 7200.0, 30.0
"""Seconds that the last save waits for room, and between two looks: hours of GPUs are lost without it, and whoever is
asked needs some time. The time limit's warning ends it before."""

_WRITE_FAILED = (
    "pytorchstreamwriter",
    "inline_container",
    "no space left",
    "i/o error",
    "iostream",
    "os error",
)
"""How torch and safetensors, which raise no OSError, say that the disk failed."""

_NO_ROOM = ("no space left", "quota exceeded", "are free in")
"""How the system says that a disk or a quota is full, and :meth:`Saver._prepare` that it will be."""


def is_disk_error(error: BaseException) -> bool:
    """Whether an error means that something could not be written, rather than that the program is wrong."""
    if isinstance(error, OSError):
        return True
    return isinstance(error, Exception) and any(sign in str(error).lower() for sign in _WRITE_FAILED)


class Writes:
    """This rank's writes of one save: the first error is kept, and what follows is left out."""

    def __init__(self) -> None:
        self.problem: str | None = None

    def do(self, what: str, write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call ``write``, unless a write before it has failed. Errors that are not the disk's go up."""
        if self.problem is not None:
            return None
        try:
            return write(*args, **kwargs)
        except Exception as error:
            if not is_disk_error(error):
                raise
            said = (
                error.strerror
                if isinstance(error, OSError) and error.strerror
                else str(error).splitlines()[0]
            )
            self.problem = f"{what}: {said}"
            return None


class KeepingStore:
    """DeepSpeed's checkpoint engine, with what cannot be written kept in ``writes`` instead of raised."""

    def __init__(self, store: Any, writes: Writes) -> None:
        self._store, self._writes = store, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def save(self, state_dict: Any, path: str) -> Any:
        """Write one file."""
        return self._writes.do(Path(path).name, self._store.save, state_dict, path)

    def makedirs(self, path: str, exist_ok: bool = False) -> Any:
        """Make a directory."""
        return self._writes.do(Path(path).name, self._store.makedirs, path, exist_ok=exist_ok)


def keep_errors(engine: Any, writes: Writes) -> None:
    """Have a DeepSpeed engine write through ``writes``, and leave ``latest`` to who knows that all ranks are done.

    Between its collectives nothing else of it touches the disk but the copy of its recovery scripts, on rank 0.
    """
    if not isinstance(engine.checkpoint_engine, KeepingStore):
        engine.checkpoint_engine = KeepingStore(engine.checkpoint_engine, writes)
        copy = engine._copy_recovery_script
        engine.save_checkpoint = functools.partial(engine.save_checkpoint, save_latest=False)
        engine._copy_recovery_script = lambda path: writes.do("zero_to_fp32.py", copy, path)


class Saver:
    """Saves checkpoints of one training.

    Args:
        folder: where ``checkpoint-N`` go.
        keep: committed checkpoints to keep, ≥ 1.
        estimate: bytes that a first checkpoint will take.
        record: called with an event's name and fields, for the ledger.
        syncs: this rank flushes files to disk for its node.
    """

    def __init__(
        self, folder: Path, keep: int, agreement: Agreement, record: Callable[..., Any], *,
        estimate: Callable[[], int], world_size: int, syncs: bool,
    ) -> None:  # fmt: skip
        self.folder, self.keep, self.agreement, self.record = folder, keep, agreement, record
        self.estimate, self.world_size, self.syncs = estimate, world_size, syncs
        self.writes = Writes()
        self.failed: Problem | None = None
        """Why the last save failed; None where it did not."""
        self.seconds: float | None = None
        """What the last good save took."""
        self.last = False
        """The training's last save, after which nothing goes on."""
        self.best: Callable[[], int | None] = lambda: None
        """The step whose checkpoint is kept beside the newest ones (asked on the first rank)."""

    @property
    def first(self) -> bool:
        """Rank 0, which decides and commits."""
        return self.agreement.rank == 0

    def save(self, step: int, write: Callable[[], Any]) -> bool:
        """Save step ``step`` by calling ``write``; True when it is committed. All ranks call it."""
        folder, began = self.folder / f"checkpoint-{step}", time.monotonic()
        self.writes.problem = None
        if self.first:
            self.writes.do(folder.name, self._prepare, folder)
        problem = self.agreement.first_problem(self.writes.problem)
        if problem is None:
            self.writes.do(folder.name, write)
            if self.syncs:
                self.writes.do(folder.name, committed.sync, folder)
            problem = self.agreement.first_problem(self.writes.problem)
        if problem is None:
            if self.first:
                self.writes.do(committed.COMMITTED, committed.commit, folder, step, self.world_size)
            problem = self.agreement.first_problem(self.writes.problem)
        self.failed = problem
        if problem is not None:
            self._drop(folder, step, problem)
            return False
        self.seconds = time.monotonic() - began
        if self.first:
            size = committed.size(folder)
            rate = f"{self.seconds:.0f} s, {size / 1e6 / self.seconds:,.0f} MB/s"
            say(f"{folder.name}: {_size(size)} saved in {rate}")
            committed.rotate(self.folder, self.keep, self.best())
        return True

    def save_last(self, step: int, write: Callable[[], Any], beat: Callable[[], bool]) -> bool:
        """Save the last step, which no later save makes up for: where the disk has no room, all ranks wait for some.

        Args:
            beat: called at each look on every rank; True where this rank is told to stop.
        """
        end = time.monotonic() + ROOM_PATIENCE
        self.last = True
        while not self.save(step, write):
            if not self.agreement.broadcast(self._lacks_room()):
                return False
            if self.first:
                say(f"checkpoint-{step}: waiting for room, {ROOM_PATIENCE / 3600:g} h at most; make some")
            if not self._room_comes(end, beat):
                return False
        return True

    def _lacks_room(self) -> bool:
        """Whether the last save failed for want of room: by its words, or by what is free now."""
        said = self.failed.text.lower() if self.failed else ""
        return any(sign in said for sign in _NO_ROOM) or self._free() < self.needed()

    def _room_comes(self, end: float, beat: Callable[[], bool]) -> bool:
        """Wait until the next checkpoint has room; False where the time is over or a rank is told to stop."""
        while True:
            time.sleep(ROOM_PAUSE)
            if self.agreement.all_reduce_max(int(beat())):
                return False
            there = self._free() >= self.needed() if self.first else False
            found = self.agreement.broadcast((there, time.monotonic() > end))
            if any(found):
                return bool(found[0])

    def _prepare(self, folder: Path) -> None:
        """Take away what a broken save of this step has left, and look for room."""
        committed.discard(folder)
        need = self.needed()
        if self._free() < need:
            committed.rotate(self.folder, 1, self.best())  # the newest alone is enough to go on from
        if (free := self._free()) < need:
            raise OSError(
                errno.ENOSPC, f"it needs {_size(need)}, and {_size(free)} are free in {self.folder}"
            )

    def needed(self) -> int:
        """Bytes the next checkpoint will take: what the last one took, else the estimate."""
        last = committed.newest(self.folder)
        return int((committed.size(last.path) if last else self.estimate()) * SPARE)

    def _free(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        return free_bytes(self.folder)

    def _drop(self, folder: Path, step: int, problem: Problem) -> None:
        """Say what happened, and give the room back."""
        if not self.first:
            return
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
        last = committed.newest(self.folder)
        newest = f"the newest checkpoint is {last.path.name}" if last else "there is no checkpoint yet"
        on = "" if self.last else "training goes on, "
        say(f"warning: checkpoint-{step} was not saved ({problem}); {on}{newest}")
        with contextlib.suppress(OSError):
            self.record(
                "save_failed", step=step, rank=problem.rank, node=problem.host, error=problem.text,
                last_checkpoint=last.step if last else None,
            )  # fmt: skip


def estimate(model: Any) -> int:
    """Bytes of a model's ZeRO checkpoint: of what is trained, the weights in their own precision and in float32, and
    Adam's two moments (12 bytes with them); of what is frozen, the weights, twice at most. Of a LoRA it is a tied
    embedding alone, which DeepSpeed does not leave out."""
    adapters = hasattr(model, "peft_config")
    total, seen = 0, set()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        # ZeRO-3 leaves an empty shell on each rank
        count = int(getattr(parameter, "ds_numel", parameter.numel()))
        if parameter not in seen and parameter.requires_grad:
            total += (parameter.element_size() + 12) * count
        elif not parameter.requires_grad and (parameter in seen) == adapters:
            total += parameter.element_size() * count * (1 if adapters else 2)
        seen.add(parameter)
    return total


def say(text: str) -> None:
    """A line in the log; a full disk must not end the training here."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
