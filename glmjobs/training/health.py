"""Is the loss still a number? Looked at without waiting for the GPU, and always before a checkpoint is written.

In float32 and bfloat16 a loss or gradient that is not finite has spoilt the weights, or is about to. In float16
DeepSpeed leaves such steps out and halves the loss scale; at its minimum DeepSpeed (0.16.4 and 0.19.8 alike) raises a
bare Exception. With a fixed loss scale it leaves out step after step in silence.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from hpc.core.errors import WorkFailed
from hpc.runtime.stop import EXIT_FATAL

SKIPPED_IN_A_ROW = 50
"""Steps that float16 may leave out, one after the other: 18 reach the minimum from 2^16, where configurations start."""

AT_MINIMUM = "loss scale already at minimum"

NEVER = 1 << 40
"""Stands for the first bad step where there was none: later than any."""


class Diverged(WorkFailed):
    """The loss is no number any more; the same steps would only lead there again."""

    exit_code = EXIT_FATAL


class Health:
    """Watches one rank's losses.

    Args:
        precision: fp32, fp16 or bf16.
    """

    def __init__(self, precision: str, learning_rate: float) -> None:
        self.precision, self.learning_rate = precision, learning_rate
        self.first: torch.Tensor | None = None
        self.skipped = 0
        self.last_finite: torch.Tensor | None = None

    def counted(self, loss: torch.Tensor) -> torch.Tensor:
        """What of a micro-step's loss goes into the sums that are logged: a number, whatever the loss; on the device.

        One infinite loss would make every later line NaN. DeepSpeed leaves its step out, so the last finite loss stands
        in for it, or 0 where there was none; how many steps were left out is logged beside the mean.
        """
        if self.precision != "fp16":  # ends at the first one that is not finite
            return loss
        if self.last_finite is None:
            self.last_finite = torch.full_like(loss, math.nan)
        self.last_finite = torch.where(torch.isfinite(loss), loss.detach(), self.last_finite)
        return torch.nan_to_num(self.last_finite, nan=0.0)

    @property
    def none_finite(self) -> bool:
        """Whether no loss was a number so far: then there is no mean of them. Waits for the device."""
        return self.last_finite is not None and bool(self.last_finite.isnan())

    def note(self, loss: torch.Tensor, step: int) -> None:
        """Remember, on the device, the first step whose loss was not finite."""
        if self.precision == "fp16":
            return
        if self.first is None:
            self.first = torch.full((), NEVER, dtype=torch.int64, device=loss.device)
        now = torch.full_like(self.first, step)
        self.first = torch.where(
            torch.isfinite(loss.detach()).all(), self.first, torch.minimum(self.first, now)
        )

    def after_step(self, engine: Any) -> None:
        """Count the steps that DeepSpeed left out, one after the other. It knows that without being waited for."""
        left_out = bool(getattr(getattr(engine, "optimizer", None), "overflow", False))
        self.skipped = self.skipped + 1 if left_out else 0

    def first_bad_step(self, engine: Any, step: int) -> int:
        """The first step, up to ``step``, that was bad on this rank; NEVER while all is well. Waits for the device.

        The first of all ranks is the least of theirs.
        """
        bad = int(self.first.item()) if self.first is not None else NEVER
        if self.precision == "fp16":
            return min(bad, step - self.skipped + 1) if self.skipped >= SKIPPED_IN_A_ROW else bad
        return min(bad, step) if self.skipped or not _finite_norm(engine) else bad

    def error(self, step: int, newest: int | None) -> Diverged:
        """The error for the first bad step of all ranks. ``newest``: step of the newest checkpoint."""
        what = "the loss or its gradient is not finite (NaN or infinite)"
        if self.precision == "fp16":
            what = f"float16 overflowed in {SKIPPED_IN_A_ROW} steps in a row, from this one on"
        return self._diverged(step, what, newest)

    def at_minimum(self, step: int, newest: int | None) -> Diverged:
        """The error for DeepSpeed's own, in words."""
        return self._diverged(step, "float16 overflows although the loss scale is at its minimum", newest)

    def nothing_learned(self, steps: int, newest: int | None) -> Diverged:
        """The error where all steps are done and none of them changed a weight."""
        return self._diverged(1, f"float16 overflowed in all {steps} steps, so nothing was learned", newest)

    def _diverged(self, step: int, what: str, newest: int | None) -> Diverged:
        lower = f"a learning rate below train.learning_rate={self.learning_rate:g}"
        kept = f"checkpoint-{newest}, saved before, is kept" if newest else "nothing was saved before"
        wider = "" if self.precision == "bf16" else " or train.precision=bf16"
        if wider and newest:  # heal says how: the checkpoint's optimizer has another form
            wider += f" in a new run from checkpoint-{newest}'s weights"
        return Diverged(f"step {step}: {what}; try {lower}{wider}; {kept}")


def _finite_norm(engine: Any) -> bool:
    """DeepSpeed's gradient norm of the last step; it writes -1 where the true one is not finite."""
    norm = engine.get_global_grad_norm() if hasattr(engine, "get_global_grad_norm") else None
    return norm is None or (math.isfinite(float(norm)) and float(norm) >= 0)
