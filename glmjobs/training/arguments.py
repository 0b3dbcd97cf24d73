"""From a recipe to transformers' TrainingArguments and DeepSpeed's configuration."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from glmjobs.recipe.loading import find_config
from glmjobs.recipe.schema import TrainSection
from hpc.core.errors import BadInput
from hpc.core.resources import resource


def deepspeed_config(train: TrainSection) -> dict[str, Any]:
    """The DeepSpeed configuration: the recipe's own file, or ``configs/deepspeed/zeroN.json`` with its offload choice.

    Raises:
        BadInput: the file is absent or not a JSON object.
    """
    own = resource(f"configs/deepspeed/zero{train.zero_stage}.json", "glmjobs")
    path = find_config(train.deepspeed) if train.deepspeed else own
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such DeepSpeed configuration (train.deepspeed)") from None
    except ValueError as error:
        raise BadInput(f"{path}: not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path}: a DeepSpeed configuration is a JSON object")
    if train.optimizer_offload:
        config.setdefault("zero_optimization", {})["offload_optimizer"] = {
            "device": "cpu",
            "pin_memory": True,
        }
    return config


def training_arguments(train: TrainSection, output: Path, steps: int, batch_rows: int, *, cuda: bool) -> Any:
    """transformers' TrainingArguments for a recipe.

    Args:
        output: where ``checkpoint-N`` and the results go.
        steps: optimizer steps in all (the warm-up is a share of them).
        batch_rows: rows of a micro-batch on one GPU.
        cuda: train on GPUs; else on the CPU with gloo.
    """
    import torch
    from transformers import TrainingArguments

    from glmjobs import compat

    values: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": batch_rows,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "learning_rate": train.learning_rate,
        "max_steps": steps,
        "lr_scheduler_type": train.scheduler,
        "warmup_steps": round(steps * train.warmup_ratio),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "fp16": train.precision == "fp16",
        "bf16": train.precision == "bf16",
        "optim": "adamw_torch_fused" if cuda and not train.optimizer_offload else "adamw_torch",
        compat.CHECKPOINTING_NAME: train.activation_checkpointing,
        f"{compat.CHECKPOINTING_NAME}_kwargs": {"use_reentrant": False},
        "logging_steps": train.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        # auto: glmjobs.training.save_interval asks for saves
        "save_strategy": "no" if train.save_steps == "auto" else "steps",
        "save_steps": 500 if train.save_steps == "auto" else train.save_steps,
        "save_total_limit": None,  # committed checkpoints are rotated by glmjobs.zero.committed
        "seed": train.seed,
        "data_seed": train.seed,
        "deepspeed": deepspeed_config(train),
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": cuda,
        "disable_tqdm": True,
        "report_to": [],
        "average_tokens_across_devices": True,
        "use_cpu": not cuda,
        "ddp_backend": "nccl" if cuda else "gloo",
    }
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return TrainingArguments(**compat.accepted(TrainingArguments, values))
