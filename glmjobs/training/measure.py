"""What an attempt at training costs, measured as it goes: loading, steps, saves, memory. For the run's record, and for
a rehearsal (:mod:`glmjobs.rehearse`)."""

from __future__ import annotations

import resource
import time
from statistics import median
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glmjobs.training.agreement import Agreement
from glmjobs.training.mfu import Peak
from glmjobs.training.save import Saver
from glmjobs.training.train_data import Reading


class Measure(TrainerCallback):  # type: ignore[misc]
    """Times steps and saves on every rank; at the end all ranks meet for the largest memory of any of them.

    The first step of an attempt warms up (kernels are chosen, buffers made) and counts in nothing.

    Args:
        begun: ``time.monotonic()`` when this process began its attempt.
        reading: tokens read after a step.
        peak: of the GPUs, where it is known.
    """

    def __init__(
        self, saver: Saver, agreement: Agreement, reading: Reading, begun: float, peak: Peak | None = None
    ) -> None:
        self.saver, self.agreement, self.reading, self.begun = saver, agreement, reading, begun
        self.peak = peak
        self.load_seconds: float | None = None
        self.first: tuple[float, int] | None = None
        self.last: tuple[float, int] | None = None
        self.saves: list[float] = []
        self.stopped_between = 0.0
        self.peaks = (0, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Everything is loaded, a checkpoint too."""
        self.load_seconds = time.monotonic() - self.begun

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A step has been started; the device is not waited for, but after the first."""
        if self.first is None:
            _finish_on_device()
            self.first = (time.monotonic(), state.global_step)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A save is over, for which the steps had stopped."""
        if self.saver.failed is None and self.saver.seconds is not None:
            self.saves.append(self.saver.seconds)
            if self.first is not None:
                self.stopped_between += self.saver.seconds

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **_: Any
    ) -> None:
        """An evaluation is over, for which the steps had stopped."""
        if self.first is not None:
            self.stopped_between += metrics["dev_seconds"]

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Wait for the last step, and ask the other ranks for their memory."""
        _finish_on_device()
        self.last = (time.monotonic(), state.global_step)
        on_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0
        on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.peaks = (self.agreement.all_reduce_max(on_gpu), self.agreement.all_reduce_max(on_host))

    def figures(self) -> dict[str, Any]:
        """Seconds to load, of a step and of a save, tokens a second of all ranks and their MFU without loading and
        saving, and the largest memory in bytes of any rank (of the GPU, where there is one, and of the process); None:
        not measured."""
        step_seconds = tokens_per_s = None
        if self.first is not None and self.last is not None and self.last[1] > self.first[1]:
            seconds = max(1e-9, self.last[0] - self.first[0] - self.stopped_between)
            tokens = self.reading.after(self.last[1]).tokens - self.reading.after(self.first[1]).tokens
            step_seconds = round(seconds / (self.last[1] - self.first[1]), 4)
            tokens_per_s = round(tokens / seconds, 1)
        return {
            "load_seconds": None if self.load_seconds is None else round(self.load_seconds, 1),
            "step_seconds": step_seconds,
            "tokens_per_s": tokens_per_s,
            "mfu": self.peak.mfu(tokens_per_s) if self.peak is not None and tokens_per_s else None,
            "save_seconds": round(median(self.saves), 3) if self.saves else None,
            "peak_gpu_bytes": self.peaks[0] or None,
            "peak_host_bytes": self.peaks[1] or None,
        }


def _finish_on_device() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
