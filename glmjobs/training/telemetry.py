"""What a training says of itself while it runs: JSON lines, TensorBoard, progress, and lines in the log (rank 0)."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glmjobs.run import evaluations
from glmjobs.text import duration
from glmjobs.training.mfu import Peak
from glmjobs.training.train_data import Reading
from glmjobs.zero import committed
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.files import read_jsonl, write_atomic

#: What the curves in TensorBoard show, under ``train/``.
CURVES = ("loss", "grad_norm", "learning_rate", "tokens_per_s", "mfu")


class RunLog(TrainerCallback):  # type: ignore[misc]
    """Loss, gradient norm, learning rate, tokens/s and MFU as JSON lines, and progress for whoever watches (rank 0).

    Epochs and tokens are those of the rows read (``reading``), in the Trainer's own state and files too: to it, the
    plan of all epochs is one.
    """

    def __init__(
        self, run: Path, trainer: Any, total_steps: int, reading: Reading, peak: Peak | None = None
    ) -> None:
        self.run, self.trainer, self.total, self.reading = run, trainer, total_steps, reading
        self.peak = peak
        self.path = Path(trainer.args.output_dir) / "train_log.jsonl"
        self.since = time.monotonic()
        self.seen = 0
        self.clock = Remaining(total_steps)
        self.board: Any = None
        self.line: ProgressLine | None = None
        self.dev_loss: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Start the clock; lines of steps that a resume will repeat are dropped, so that each step stands once."""
        self.since = time.monotonic()
        if not state.is_world_process_zero:
            return
        self.seen = self.reading.after(state.global_step).tokens
        kept = [r for r in read_jsonl(self.path) if int(r.get("step", 0)) <= state.global_step]
        if self.path.exists():
            text = "".join(json.dumps(r) + "\n" for r in kept)
            write_atomic(self.path, text)
        self.dev_loss = next((r["dev_loss"] for r in reversed(kept) if evaluations.is_evaluation(r)), None)
        self.clock.start(state.global_step)
        self.board = tensorboard(self.path.parent / "tensorboard", state.global_step + 1)
        self.line = ProgressLine(self.total, state.global_step) if sys.stderr.isatty() else None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Set the Trainer's figures right, on every rank, before it logs or saves them."""
        state.epoch, state.num_input_tokens_seen = self.reading.after(state.global_step)

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
        epoch, tokens = self.reading.after(state.global_step)
        now = time.monotonic()
        rate = (tokens - self.seen) / max(1e-9, now - self.since)
        self.since, self.seen = now, tokens
        record = {
            "time": timestamps.now(),
            "step": state.global_step,
            "epoch": epoch,
            "loss": None if self.trainer.health.none_finite else finite(logs["loss"]),
            "grad_norm": finite(logs.get("grad_norm")),  # of a step that was skipped it is none
            "learning_rate": finite(logs.get("learning_rate")),
            "tokens_per_s": round(rate, 1),
            **({} if self.peak is None else {"mfu": self.peak.mfu(rate)}),
            "tokens": tokens,
            "skipped_steps": self.trainer.skipped_steps,
        }
        seconds_left = self.clock.after(state.global_step)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        ledger.write_progress(
            self.run, "train", step=state.global_step, of=self.total, epoch=epoch, tokens=tokens,
            loss=record["loss"], dev_loss=self.dev_loss, tokens_per_s=record["tokens_per_s"], mfu=record.get("mfu"),
            checkpoint=self._checkpoint(),
        )  # fmt: skip
        self._say(state.global_step, record, seconds_left)
        if self.board is not None:
            for name in CURVES:
                if record.get(name) is not None:
                    self.board.add_scalar(f"train/{name}", record[name], state.global_step)
            self.board.flush()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **_: Any
    ) -> None:
        """Append an evaluation's line; its time is no step's."""
        self.since += metrics["dev_seconds"]
        if not state.is_world_process_zero:
            return
        loss, accuracy = metrics["dev_loss"], metrics["dev_token_accuracy"]
        self.dev_loss = loss
        line = json.dumps({"time": timestamps.now(), **metrics}) + "\n"
        # where the disk is full, a resumed training evaluates this step anew
        with contextlib.suppress(OSError), self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            news = {**ledger.progress(self.run, "train"), "dev_loss": loss}
            ledger.write_progress(self.run, "train", **{k: v for k, v in news.items() if k != "time"})
        words = f"dev loss {'none' if loss is None else f'{loss:.4f}'}  token accuracy {accuracy:.1%}"
        if metrics.get("dev_answers") is not None:
            words += f"  answers right {metrics['dev_answers']:.1%} of {metrics['dev_answers_marked']:,}"
        took = f"{metrics['dev_examples']:,} examples in {duration(metrics['dev_seconds'])}"
        print(f"step {state.global_step}/{self.total}  {words}  ({took})", file=sys.stderr, flush=True)
        if self.board is not None:
            for name, value in (
                ("loss", loss),
                ("token_accuracy", accuracy),
                ("answers", metrics.get("dev_answers")),
            ):
                if value is not None:
                    self.board.add_scalar(f"dev/{name}", value, state.global_step)

    def _say(self, step: int, record: dict[str, Any], seconds_left: float | None) -> None:
        loss = record["loss"]
        words = f"loss {'none' if loss is None else f'{loss:.4f}'}  {record['tokens_per_s']:,.0f} tokens/s"
        if "mfu" in record:
            words += f"  MFU {record['mfu']:.1%}"
        if skipped := self.trainer.skipped_steps:
            words += f"  {skipped:,} step{'s' * (skipped > 1)} skipped (float16 overflowed)"
        if self.line is not None:
            self.line.show(step, words)
            return
        left = f"  {duration(seconds_left)} left" if seconds_left is not None else ""
        print(f"step {step}/{self.total}  {words}{left}", file=sys.stderr, flush=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Close what is open."""
        if self.line is not None:
            self.line.end()
        if self.board is not None:
            self.board.close()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Say that a checkpoint counts."""
        if state.is_world_process_zero:
            ledger.write_progress(
                self.run, "train", step=state.global_step, of=self.total, checkpoint=self._checkpoint(),
                dev_loss=self.dev_loss, **self.reading.after(state.global_step)._asdict(),
            )  # fmt: skip

    def _checkpoint(self) -> int | None:
        found = committed.newest(Path(self.trainer.args.output_dir))
        return found.step if found else None


def finite(value: Any) -> float | None:
    """As JSON takes it: a number, or None for what is absent or none."""
    return float(value) if value is not None and math.isfinite(float(value)) else None


class Remaining:
    """Time left, from the steps of this attempt. The first of them warms up and is not counted."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.begun: tuple[float, int] | None = None
        self.from_step = 0

    def start(self, step: int) -> None:
        """Steps up to ``step`` were done by earlier attempts."""
        self.begun, self.from_step = None, step

    def after(self, step: int) -> float | None:
        """Seconds left after ``step``; None while there is nothing to go by."""
        now = time.monotonic()
        if self.begun is None:
            if step > self.from_step:
                self.begun = now, step
            return None
        since, first = self.begun
        if step <= first:
            return None
        return round((self.total - step) * (now - since) / (step - first), 1)


def tensorboard(folder: Path, next_step: int) -> Any:
    """A writer of TensorBoard's curves, or None where it is not installed or cannot write.

    Steps from ``next_step`` on that a broken-off attempt has drawn are taken back.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(folder), purge_step=next_step)
    except (ImportError, AttributeError, OSError):  # AttributeError: old torch with new setuptools
        return None


class ProgressLine:
    """One line on a terminal, kept up to date: bar, step, loss, tokens/s, time left."""

    def __init__(self, total: int, step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("step"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        # Steps are reported seldom: the speed is that of the last half hour.
        self.progress = Progress(
            *columns, TimeRemainingColumn(), TextColumn("left"), console=Console(stderr=True),
            speed_estimate_period=1800,
        )  # fmt: skip
        self.task = self.progress.add_task("", total=total, completed=step)
        self.progress.start()

    def show(self, step: int, words: str) -> None:
        """The state after a step."""
        self.progress.update(self.task, completed=step, description=words)

    def end(self) -> None:
        """Leave the line as it stands."""
        with contextlib.suppress(Exception):
            self.progress.stop()
