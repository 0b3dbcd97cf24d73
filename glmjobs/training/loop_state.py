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

from hpc.core.files import read_json


class LoopState(TrainerCallback):  # type: ignore[misc]
    """Saves and restores them for one rank of ``trainer``; ``resume``: the checkpoint training goes on from."""

    def __init__(self, trainer: Any, resume: Path | None) -> None:
        self.trainer, self.resume = trainer, resume

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
        }
        checkpoint.mkdir(parents=True, exist_ok=True)
        self.path(checkpoint).write_text(json.dumps(state) + "\n", encoding="utf-8")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take up the sums of the checkpoint; the running loss goes in with the first micro-step's."""
        saved = read_json(self.path(self.resume)) if self.resume is not None else None
        if saved is None:
            return
        trainer = self.trainer
        trainer.carried_loss = float(saved["running_loss"])
        trainer._total_loss_scalar = float(saved["total_loss"])
        trainer._globalstep_last_logged = int(saved["last_logged"])
