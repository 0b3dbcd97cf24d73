"""transformers' Trainer, extended through its own seams: committed checkpoints, and tokens counted without a sync."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glmjobs.training import checkpoints
from hpc import ledger
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


class RunLog(TrainerCallback):  # type: ignore[misc]
    """Loss, gradient norm, learning rate and tokens/s as JSON lines, and progress for whoever watches (rank 0).

    Tokens are those of rank 0 times the number of ranks: packed rows are full, so the ranks differ by little.
    """

    def __init__(self, run: Path, trainer: GLMTrainer, total_steps: int, epochs: float) -> None:
        self.run, self.trainer, self.total, self.epochs = run, trainer, total_steps, epochs
        self.path = Path(trainer.args.output_dir) / "train_log.jsonl"
        self.since = time.monotonic()
        self.seen = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock; lines of steps that a resume will repeat are dropped, so that each step stands once."""
        self.since = time.monotonic()
        if not state.is_world_process_zero:
            return
        kept = [r for r in ledger.read_jsonl(self.path) if int(r.get("step", 0)) <= state.global_step]
        if self.path.exists():
            text = "".join(json.dumps(r) + "\n" for r in kept)
            ledger.write_atomic(self.path, text)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Any = None,
        **_: Any,
    ) -> None:
        """Append one line."""
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        tokens = int(self.trainer.tokens.item()) * args.world_size if self.trainer.tokens is not None else 0
        now = time.monotonic()
        rate = (tokens - self.seen) / max(1e-9, now - self.since)
        self.since, self.seen = now, tokens
        record = {
            "time": ledger.now(),
            "step": state.global_step,
            "epoch": round(self.epochs * state.global_step / self.total, 6),
            "loss": float(logs["loss"]),
            "grad_norm": float(logs["grad_norm"]) if "grad_norm" in logs else None,
            "learning_rate": float(logs["learning_rate"]) if "learning_rate" in logs else None,
            "tokens_per_s": round(rate, 1),
            "tokens": tokens,
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        ledger.write_progress(
            self.run, "train", step=state.global_step, of=self.total, loss=record["loss"],
            tokens_per_s=record["tokens_per_s"], checkpoint=self._checkpoint(),
        )  # fmt: skip
        print(
            f"step {state.global_step}/{self.total}  loss {record['loss']:.4f}  {rate:,.0f} tokens/s",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say that a checkpoint counts."""
        if state.is_world_process_zero:
            ledger.write_progress(
                self.run, "train", step=state.global_step, of=self.total, checkpoint=self._checkpoint()
            )

    def _checkpoint(self) -> int | None:
        found = checkpoints.newest(Path(self.trainer.args.output_dir))
        return found.step if found else None
