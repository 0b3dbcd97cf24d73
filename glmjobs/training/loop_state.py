"""What the Trainer's own checkpoint leaves out of where a training stands: sums that are begun but not yet logged.

transformers starts the running loss, the total loss and the step of the last log line anew at a resume, so the line
after it would average other steps than without the interruption, and ``train_loss`` would count only the last attempt.
One small file a rank holds them; JSON writes a float so that it is read back to the bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glmjobs.training.train_data import Reading
from hpc.core.errors import BadInput
from hpc.core.files import read_json
from hpc.core.hints import command, setting

CHANGED = {
    "examples": "the examples are others (another data file, tokenizer or length limit)",
    "step_rows": "a step takes another number of rows",
    "order": "rows come in another order (another seed or packing, or another version of this toolkit)",
}
"""What a difference in each field of :meth:`Reading.record` means."""


class LoopState(TrainerCallback):  # type: ignore[misc]
    """Saves and restores them for one rank of ``trainer``; ``resume``: the checkpoint training goes on from.

    What identifies the rows read so far (``reading``) is saved with them, for :func:`check_rows`.
    """

    def __init__(self, trainer: Any, resume: Path | None, reading: Reading) -> None:
        self.trainer, self.resume, self.reading = trainer, resume, reading

    def path(self, checkpoint: Path) -> Path:
        """This rank's file in a checkpoint."""
        return checkpoint / f"loop_state_{self.trainer.args.process_index}.json"

    def save(self, checkpoint: Path) -> None:
        """Write this rank's sums. Waits for the device: call it where a checkpoint is saved anyway."""
        trainer = self.trainer
        state = {
            "running_loss": float(trainer.running_loss) if trainer.running_loss is not None else 0.0,
            "total_loss": float(trainer._total_loss_scalar),
            "last_logged": int(trainer._globalstep_last_logged),
            "rows": self.reading.record(int(trainer.state.global_step)),
        }
        checkpoint.mkdir(parents=True, exist_ok=True)
        self.path(checkpoint).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take up the sums of the checkpoint; the running loss goes in with the first micro-step's.

        How often is logged and saved is the recipe's: transformers would keep to what the checkpoint was saved with.
        """
        state.logging_steps, state.save_steps = int(args.logging_steps), int(args.save_steps)
        saved = read_json(self.path(self.resume)) if self.resume is not None else None
        if saved is None:
            return
        trainer = self.trainer
        trainer.carried_loss = float(saved["running_loss"])
        trainer._total_loss_scalar = float(saved["total_loss"])
        trainer._globalstep_last_logged = int(saved["last_logged"])


def check_rows(checkpoint: Path, reading: Reading) -> str | None:
    """Whether training would go on from ``checkpoint`` with the rows that follow those it was trained on.

    Returns:
        a warning where the checkpoint does not say what those were.

    Raises:
        BadInput: they were others; rows would be left out, or read twice.
    """
    saved = (read_json(checkpoint / "loop_state_0.json") or {}).get("rows")
    if saved is None:
        return f"{checkpoint.name} was saved by an earlier version: that its rows are those of this plan is not checked"
    step = int(checkpoint.name.rpartition("-")[2])
    now = reading.record(step)
    changed = next((why for name, why in CHANGED.items() if saved.get(name) != now[name]), None)
    if changed is None:
        return None
    run = checkpoint.parent.parent
    weights = run / f"model-{step}"
    raise BadInput(
        f"{checkpoint.name} was trained on other rows than would follow now: {changed}; change that back, or begin a "
        f"new run from its weights: {command('glmjobs.consolidate', run, weights, '--dtype', 'float32')}; then "
        f"submit the recipe with {setting('model.path', weights)}"
    )
