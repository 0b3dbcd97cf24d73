"""transformers' Trainer, extended through its own seams: committed checkpoints, and tokens counted without a sync."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glmjobs.training import checkpoints
from hpc.preempt import StopFlag


class GLMTrainer(Trainer):  # type: ignore[misc]
    """Trains with DeepSpeed; a checkpoint counts only once it is committed.

    Args:
        keep: committed checkpoints to keep (the newest always stays).
    """

    def __init__(self, *args: Any, keep: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep = keep
        self.tokens: torch.Tensor | None = None

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        """Rows are read in the order they were planned in."""
        return SequentialSampler(self.train_dataset)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One micro-step. Real (not padding) positions are summed on the device; nobody waits for the number here."""
        count = inputs["segment_ids"].count_nonzero()
        self.tokens = count if self.tokens is None else self.tokens + count.to(self.tokens.device)
        return super().training_step(model, inputs, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        if (
            self.is_world_process_zero()
        ):  # a save of this step that was broken off: its leavings must not be listed
            (folder / checkpoints.COMMITTED).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)
        if self.args.local_process_index == 0:
            checkpoints.sync(folder)
        barrier()
        if self.is_world_process_zero():
            checkpoints.commit(folder, step, self.args.world_size)
            checkpoints.rotate(folder.parent, self.keep)
        barrier()


def barrier() -> None:
    """Wait for all ranks, where there are several."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()


class StopTogether(TrainerCallback):  # type: ignore[misc]
    """All ranks stop at the same step: a signal that reached any rank is known to all at the next step's end.

    The flags travel over a gloo group of their own, so the GPU is never waited for.
    """

    def __init__(self, flag: StopFlag) -> None:
        self.flag = flag
        self.stopped = False
        self.group: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Make the group for the flags."""
        if dist.is_initialized() and dist.get_world_size() > 1:
            self.group = dist.new_group(backend="gloo")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask everyone; stop and save where anyone was told to."""
        if state.global_step >= state.max_steps:
            control.should_save = True
            return
        if self._anyone():
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def _anyone(self) -> bool:
        if self.group is None:
            return self.flag.requested
        flags = torch.tensor([int(self.flag.requested)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=self.group)
        return bool(flags.item())
