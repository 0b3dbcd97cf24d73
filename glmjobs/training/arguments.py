"""From a recipe to transformers' TrainingArguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from glmjobs import compat
from glmjobs.recipe.deepspeed_config import deepspeed_config
from glmjobs.recipe.schema import TrainSection
from glmjobs.training.agreement import PATIENCE


def training_arguments(
    train: TrainSection, output: Path, steps: int, batch_rows: int, *, cuda: bool
) -> TrainingArguments:
    """transformers' TrainingArguments for a recipe.

    Args:
        output: where ``checkpoint-N`` and the results go.
        steps: optimizer steps in all (the warm-up is a share of them).
        batch_rows: rows of a micro-batch on one GPU.
        cuda: train on GPUs; else on the CPU with gloo.
    """
    fused = cuda and not train.optimizer_offload and compat.FUSED_ADAM
    values: dict[str, Any] = {
        "output_dir": str(output),
        "per_device_train_batch_size": batch_rows,
        "gradient_accumulation_steps": train.gradient_accumulation,
        "learning_rate": train.learning_rate,
        "max_steps": steps,
        # transformers' plain "constant" has no warm-up, whatever is asked for
        "lr_scheduler_type": "constant_with_warmup"
        if train.scheduler == "constant" and train.warmup_ratio
        else train.scheduler,
        "warmup_steps": round(steps * train.warmup_ratio),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "fp16": train.precision == "fp16",
        "bf16": train.precision == "bf16",
        "optim": "adamw_torch_fused" if fused else "adamw_torch",
        # a run made by submit says yes or no; one that does not is on the safe side
        compat.CHECKPOINTING_NAME: train.activation_checkpointing is not False,
        f"{compat.CHECKPOINTING_NAME}_kwargs": {"use_reentrant": reentrant(train)},
        "neftune_noise_alpha": train.neftune_alpha,
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
        # a rank that has written its part waits in a collective for the others; hangs are the heartbeat's to find
        "ddp_timeout": int(PATIENCE.total_seconds()),
    }
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return TrainingArguments(**compat.accepted(TrainingArguments, values))


def reentrant(train: TrainSection) -> bool:
    """Whether activations are recomputed by torch's reentrant way, which needs inputs that have gradients.

    The other way is torch's own choice (it keeps no second graph), but not where it computes with partitioned weights.
    """
    stage = deepspeed_config(train).get("zero_optimization", {}).get("stage", train.zero_stage)
    return bool(
        train.activation_checkpointing is not False and stage == 3 and not compat.RECOMPUTES_UNDER_ZERO3
    )
