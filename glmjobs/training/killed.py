"""A rank that dies without a word, in a rehearsal: what a failing node or the kernel's memory killer does."""

from __future__ import annotations

import os
import signal
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Killed(TrainerCallback):  # type: ignore[misc]
    """Kills this process after ``step`` optimizer steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Die, when it is time."""
        if state.global_step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)
