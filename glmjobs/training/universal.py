"""Taking up a checkpoint's universal form (glmjobs.reshard), and setting right what DeepSpeed's loader gets wrong.

Under ZeRO-3 (DeepSpeed 0.19: runtime/zero/stage3.py, load_hp_checkpoint_state_from_checkpoint_dir_stage3) it gives all
of Adam's states one and the same step tensor, which every one of them then counts on, and it gives all parameter groups
the settings of the first, weight decay included. Losses were off by 1.5 % thirty steps later.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

OWN = ("params", "lr", "initial_lr", "fused", "foreach", "capturable", "differentiable")
"""What of an optimizer's group is not taken from a checkpoint: its parameters, its rate, which the Trainer has set by
the recipe just before, and its kernel."""


class Universal(TrainerCallback):  # type: ignore[misc]
    """Has ``trainer`` load the universal form of the checkpoint ``resume``. Make it before DeepSpeed starts."""

    def __init__(self, trainer: Any, resume: Path) -> None:
        self.trainer, self.resume = trainer, resume
        config = trainer.accelerator.state.deepspeed_plugin.deepspeed_config
        config.setdefault("checkpoint", {})["load_universal"] = True

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """The checkpoint has just been loaded."""
        folder = self.resume / (self.resume / "latest_universal").read_text(encoding="utf-8").strip()
        correct_optimizer(
            self.trainer.model_wrapped.optimizer.optimizer, folder / "zero" / "optimizer_state.pt"
        )


def correct_optimizer(optimizer: Any, file: Path) -> None:
    """A step counter of its own for every state, on the device where the optimizer counts; for every group the settings
    in ``file``, where it is there: but not at which rate it steps, which is the recipe's to say, nor by which kernel,
    which is this torch's and device's."""
    if file.is_file():
        # The run's own file, which DeepSpeed itself has just unpickled.
        saved = torch.load(file, map_location="cpu", weights_only=False)["param_groups"]
        for group, settings in zip(optimizer.param_groups, saved, strict=True):
            group.update({key: value for key, value in settings.items() if key not in OWN})
    # Fused Adam counts beside the parameter, others on the CPU (torch/optim/adam.py). One kernel steps all groups; a
    # group's parameters are not asked: ZeRO-3 lends them for a step only.
    fused = bool(optimizer.param_groups[0].get("fused"))
    for parameter, values in optimizer.state.items():
        if torch.is_tensor(values.get("step")):
            values["step"] = values["step"].to(parameter.device if fused else "cpu", copy=True)
