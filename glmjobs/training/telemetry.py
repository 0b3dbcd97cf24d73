"""What a training says of itself while it runs: JSON lines, progress, and lines in the log (rank 0)."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glmjobs.training import checkpoints
from hpc import ledger


class RunLog(TrainerCallback):  # type: ignore[misc]
    """Loss, gradient norm, learning rate and tokens/s as JSON lines, and progress for whoever watches (rank 0).

    Tokens are those of rank 0 times the number of ranks: packed rows are full, so the ranks differ by little.
    """

    def __init__(self, run: Path, trainer: Any, total_steps: int, epochs: float) -> None:
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
        self.seen = self._tokens(args)
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
        tokens = self._tokens(args)
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

    def _tokens(self, args: TrainingArguments) -> int:
        return int(self.trainer.tokens.item()) * args.world_size if self.trainer.tokens is not None else 0

    def _checkpoint(self) -> int | None:
        found = checkpoints.newest(Path(self.trainer.args.output_dir))
        return found.step if found else None
