"""``train.save_steps: auto``: how often to save, from what a save costs and how often the machine fails.

Saving every W seconds costs C/W of the time, and a failure throws W/2 away on average; with a mean time M between
failures the sum is least at ``W = sqrt(2 C M)`` (Young 1974, "A first order approximation to the optimum checkpoint
interval"; Daly 2006 gives the same in first order, good while C is much smaller than M).
"""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hpc.core.files import read_json, write_json

#: The first save of a training comes after so many steps: it measures, and shows early that saving works at all.
FIRST = 20
FILE = "save_interval.json"


def interval_seconds(save_seconds: float, failure_seconds: float) -> float:
    """Young and Daly's interval between saves.

    Args:
        save_seconds: what a save takes, C.
        failure_seconds: mean time between failures of the job, M.
    """
    return math.sqrt(2 * save_seconds * failure_seconds)


def interval_steps(save_seconds: float, step_seconds: float, failure_seconds: float) -> int:
    """The same in optimizer steps, at least 1."""
    return max(1, round(interval_seconds(save_seconds, failure_seconds) / max(step_seconds, 1e-9)))


class AutoSave(TrainerCallback):  # type: ignore[misc]
    """Asks for saves. Rank 0 measures and decides after each; all ranks take its word, so that all save together.

    Its decision is kept beside the checkpoints: an attempt that resumes at step N saves next at N + interval, as the
    one before it would have.

    Args:
        trainer: its ``saver`` measures saves and knows how ranks agree.
        failure_hours: mean time between failures of the whole job.
    """

    def __init__(self, trainer: Any, failure_hours: float) -> None:
        self.trainer, self.failure_seconds = trainer, failure_hours * 3600
        self.path = Path(trainer.args.output_dir) / FILE
        self.every, self.next = FIRST, FIRST
        self.measured: float | None = None
        self._since: tuple[float, int] | None = None
        self._saved = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take up an earlier attempt's interval."""
        kept = read_json(self.path) or {}
        self.every = int(self._agreement.broadcast(max(1, int(kept.get("steps", FIRST)))))
        self.next = state.global_step + self.every

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """After a save: how far to the next one."""
        if self._saved:
            self._saved = False
            self._decide(state)
        if self._since is None and state.global_step > 0:  # the first step warms up and is not counted
            self._since = time.monotonic(), state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save where it is time."""
        if state.global_step < self.next:
            return
        control.should_save = True
        self._saved = True
        if self._since is not None and state.global_step > self._since[1]:
            self.measured = (time.monotonic() - self._since[0]) / (state.global_step - self._since[1])
        self._since = None  # the save itself is no step

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **_: Any
    ) -> None:
        """An evaluation is no step."""
        if self._since is not None:
            self._since = self._since[0] + metrics["dev_seconds"], self._since[1]

    def _decide(self, state: TrainerState) -> None:
        saving = self.trainer.saver.seconds
        if saving and self.measured:
            self.every = interval_steps(saving, self.measured, self.failure_seconds)
        self.every = int(self._agreement.broadcast(self.every))
        self.next = state.global_step + self.every
        if state.is_world_process_zero:
            with contextlib.suppress(OSError):  # without it the next attempt measures anew
                write_json(
                    self.path,
                    {
                        "steps": self.every,
                        "save_seconds": saving,
                        "step_seconds": self.measured,
                        "next": self.next,
                    },
                )

    @property
    def _agreement(self) -> Any:
        return self.trainer.saver.agreement
