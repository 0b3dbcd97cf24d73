"""The train stage: `python -m glmjobs.train RUN`, one process per GPU: all weights or LoRA, with DeepSpeed ZeRO.

Resumes by itself from the newest committed checkpoint; stops at a signal with one (exit code 85, see
:mod:`hpc.preempt`). Output, in the shape people know: ``checkpoints/checkpoint-N/…``, ``train_results.json``,
``all_results.json``, ``trainer_state.json``.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from glmjobs.cli import run_command
from glmjobs.errors import NotFit, WorkFailed
from glmjobs.recipe import TrainSection
from glmjobs.run import Run
from glmjobs.training import checkpoints
from hpc import ledger, ranks
from hpc.preempt import STOPPED, StopFlag


def main(argv: list[str] | None = None) -> int:
    """Train, or go on training; 0 when the last step is saved, 85 when stopped early with everything saved."""
    parser = argparse.ArgumentParser(prog="python -m glmjobs.train", description="The train stage of a run.")
    parser.add_argument("run", help="run directory, or its name under runs/")
    run = Run.open(parser.parse_args(argv).run)
    flag = StopFlag().install()  # before the slow imports: a signal during warm-up is not lost
    if run.done("train"):
        print("train: done already", file=sys.stderr)
        return 0
    place = ranks.find(run.jobs("train"))
    place.export()
    try:
        return train(run, place, flag)
    except BaseException as error:
        ranks.record_failure(run.jobs("train"), place.rank, error)
        raise


def train(run: Run, place: ranks.Ranks, flag: StopFlag) -> int:
    """One attempt at the training, on this rank."""
    started = ledger.now()
    cuda = use_cuda(run.recipe.train, place)
    import transformers

    from glmjobs import compat, inputs
    from glmjobs.models import load_model, load_tokenizer
    from glmjobs.models.family import family_for
    from glmjobs.training.data import training_data
    from glmjobs.training.telemetry import RunLog
    from glmjobs.training.trainer import GLMTrainer, StopTogether

    settings = run.recipe.train
    transformers.set_seed(settings.seed)
    transformers.utils.logging.disable_progress_bar()  # a log is no terminal
    if not cuda:
        compat.without_shared_memory_op()
    inputs.ensure(run)
    tokenizer = load_tokenizer(run.base_model)
    data = training_data(run, tokenizer)
    steps = total_steps(settings, len(data.dataset), data.batch_rows, place.world_size)
    from glmjobs.training.arguments import training_arguments

    arguments = training_arguments(settings, run.checkpoints, steps, data.batch_rows, cuda=cuda)
    # DeepSpeed makes its float32 master weights from what it is given; the original weights are half precision.
    precision = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[settings.precision]
    model = load_model(run.base_model, dtype=precision)
    model.config.use_cache = False
    if settings.method == "lora":
        from glmjobs.training import lora

        model = lora.adapt(model, settings.lora, family_for(run.base_model))
        data.figures.update(lora.counted(model))
    trainer = GLMTrainer(
        model=model, args=arguments, train_dataset=data.dataset, data_collator=data.collator,
        processing_class=tokenizer, keep=settings.save_total_limit,
    )  # fmt: skip
    stop = StopTogether(flag)
    trainer.add_callback(stop)
    trainer.add_callback(RunLog(run.path, trainer, steps, settings.epochs))
    if flag.requested:
        return STOPPED  # nothing was done since the last checkpoint, so nothing is to be saved
    result = trainer.train(resume_from_checkpoint=resume_point(run.checkpoints, place))
    if stop.stopped and trainer.state.global_step < steps:
        say(
            place,
            f"stopped at step {trainer.state.global_step} of {steps} ({flag.reason or 'another rank was told'})",
        )
        return STOPPED
    return finish(run, trainer, result, data.figures, started, place)


def finish(
    run: Run, trainer: Any, result: Any, figures: dict[str, Any], started: str, place: ranks.Ranks
) -> int:
    """Results in the Trainer's own files; the marker on rank 0."""
    last = checkpoints.newest(run.checkpoints)
    if last is None or last.step != trainer.state.global_step:
        raise WorkFailed(f"{run.checkpoints}: the last step's checkpoint is not committed")
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    if trainer.is_world_process_zero():
        names = ("train_results.json", "all_results.json", "trainer_state.json", "train_log.jsonl")
        outputs = [run.checkpoints / name for name in names if (run.checkpoints / name).is_file()]
        run.mark(
            "train",
            started=started,
            outputs=[*outputs, last.path / checkpoints.COMMITTED],
            figures={
                "step": last.step,
                "checkpoint": str(last.path.relative_to(run.path)),
                "checkpoint_bytes": checkpoints.size(last.path),
                "world_size": place.world_size,
                "train_loss": result.metrics.get("train_loss"),
                "train_runtime_s": result.metrics.get("train_runtime"),
                **figures,
            },
        )
    leave()
    return 0


def leave() -> None:
    """Part from the other ranks in good order."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def use_cuda(settings: TrainSection, place: ranks.Ranks) -> bool:
    """True to train on GPUs.

    Raises:
        NotFit: the recipe wants GPUs and this rank has none.
    """
    if settings.device == "cpu":
        cuda = False
    else:
        import torch

        cuda = torch.cuda.is_available() and torch.cuda.device_count() > place.local_rank
        if not cuda and settings.device == "cuda":
            raise NotFit(
                f"rank {place.rank} finds no GPU {place.local_rank} on {os.uname().nodename}; "
                "train.device: auto lets small recipes run on the CPU"
            )
    if not cuda:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return cuda


def total_steps(settings: TrainSection, rows: int, batch_rows: int, world_size: int) -> int:
    """Optimizer steps in all: the planned rows of every epoch over the rows of a step; or ``max_steps``."""
    if rows == 0:
        raise WorkFailed("no training rows are left after reading and splitting the data")
    if settings.max_steps > 0:
        return settings.max_steps
    return max(1, math.ceil(rows / (batch_rows * world_size * settings.gradient_accumulation)))


def resume_point(folder: Path, place: ranks.Ranks) -> str | None:
    """The newest committed checkpoint; what was passed over, and why, is said on rank 0."""
    chosen = None
    for checkpoint in checkpoints.scan(folder):
        if checkpoint.problem is None:
            chosen = checkpoint
            break
        say(place, f"passing over {checkpoint.path.name}: {checkpoint.problem}")
    if chosen is None:
        return None
    say(place, f"resuming from {chosen.path.name}")
    return str(chosen.path)


def say(place: ranks.Ranks, text: str) -> None:
    """A line in rank 0's log."""
    if place.rank == 0:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
