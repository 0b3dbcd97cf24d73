"""The train stage: `python -m glmjobs.train RUN`, one process per GPU: all weights or LoRA, with DeepSpeed ZeRO.

Resumes by itself from the newest committed checkpoint; stops at a signal with one (exit code 85, see
:mod:`hpc.runtime.stop`). Output, in the shape people know: ``checkpoints/checkpoint-N/…``, ``train_results.json``,
``all_results.json``, ``trainer_state.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from glmjobs.cli import run_command
from glmjobs.recipe.schema import TrainSection
from glmjobs.run.directory import Run
from glmjobs.zero import committed
from hpc.chain import ledger
from hpc.core import timestamps
from hpc.core.errors import NotFit, WorkFailed
from hpc.runtime import gpu_monitor
from hpc.runtime.failures import record_failure
from hpc.runtime.heartbeat import Heartbeat
from hpc.runtime.rendezvous import Rank, discover_rank
from hpc.runtime.stop import EXIT_FATAL, EXIT_REQUEUE, StopFlag, StopRequested

if TYPE_CHECKING:
    from glmjobs.training.trainer import GLMTrainer


def main(argv: list[str] | None = None) -> int:
    """Train, or go on training; 0 when the last step is saved, 85 when stopped early with everything saved."""
    parser = argparse.ArgumentParser(prog="python -m glmjobs.train", description="The train stage of a run.")
    parser.add_argument("run", help="run directory, or its name under runs/")
    run = Run.open(parser.parse_args(argv).run)
    flag = StopFlag().install()  # before the slow imports: a signal during warm-up is not lost
    if run.done("train"):
        print("train: done already", file=sys.stderr)
        return 0
    try:
        with flag.nothing_to_save():
            place = discover_rank(run.jobs("train"))
    except StopRequested:
        return EXIT_REQUEUE
    place.export()
    limit = float(run.recipe.jobs.heartbeat_seconds)
    heartbeat = Heartbeat(run.jobs("train") / "heartbeat", place.rank, place.world_size, limit, flag).start()
    try:
        with gpu_monitor.watching(run.path, place.local_rank):
            code = train(run, place, flag, heartbeat)
    except StopRequested:
        say(place, f"stopped before the first step ({flag.reason}): there was nothing to save")
        leave_at_once(EXIT_REQUEUE)
    except BaseException as error:
        record_failure(run.jobs("train"), place.rank, error)
        raise
    if code == EXIT_REQUEUE:
        leave()
        leave_at_once(code)
    return code


def train(run: Run, place: Rank, flag: StopFlag, heartbeat: Heartbeat) -> int:
    """One attempt at the training, on this rank.

    Raises:
        StopRequested: a stop signal came before the first step.
    """
    started = timestamps.now()
    with flag.nothing_to_save():
        trainer, steps, figures = prepare(run, place, heartbeat)
    from glmjobs.training.loop_state import LoopState
    from glmjobs.training.resume import resume_point, saved_ranks
    from glmjobs.training.save_interval import AutoSave
    from glmjobs.training.telemetry import RunLog
    from glmjobs.training.trainer import StopTogether

    agreement = trainer.saver.agreement
    heartbeat.report("preparing")
    # From here on the ranks meet in collectives: whoever was told to stop has to be waited for by all.
    if agreement.most(int(flag.requested)) == [1]:
        raise StopRequested(flag.reason)
    resume = resume_point(run.checkpoints, agreement, place.world_size)
    if resume is not None and saved_ranks(resume) != place.world_size:
        from glmjobs.training.universal import Universal

        trainer.add_callback(Universal(trainer, resume))
    stop = StopTogether(flag, agreement, trainer)
    trainer.loop = LoopState(trainer, resume)
    auto = run.recipe.train.save_steps == "auto"
    saves = [AutoSave(trainer, run.recipe.jobs.mean_time_between_failures_hours)] if auto else []
    # Saves are asked for before the ranks agree on stopping; what writes logs comes last, for it may fail.
    for callback in (trainer.loop, *saves, stop, RunLog(run.path, trainer, steps, run.recipe.train.epochs)):
        trainer.add_callback(callback)
    heartbeat.report("preparing")
    result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    heartbeat.report("finishing", trainer.state.global_step)
    if stop.stopped and trainer.state.global_step < steps:
        step, why = trainer.state.global_step, flag.reason or "another rank was told"
        unsaved = " (its checkpoint could not be saved)" if trainer.saver.failed else ""
        say(place, f"stopped at step {step} of {steps} ({why}){unsaved}")
        return EXIT_REQUEUE
    return finish(run, trainer, result, figures, started, place)


def prepare(run: Run, place: Rank, heartbeat: Heartbeat) -> tuple[GLMTrainer, int, dict[str, Any]]:
    """Everything before the first step: data, model, trainer; with the steps in all and figures for the record."""
    heartbeat.report("importing")
    cuda = use_cuda(run.recipe.train, place)
    import transformers

    from glmjobs import compat
    from glmjobs.models import load_model, load_tokenizer
    from glmjobs.models.family import family_for
    from glmjobs.run import inputs
    from glmjobs.training import save
    from glmjobs.training.agreement import Agreement
    from glmjobs.training.health import Health
    from glmjobs.training.train_data import training_data
    from glmjobs.training.trainer import GLMTrainer

    settings = run.recipe.train
    transformers.set_seed(settings.seed)
    transformers.utils.logging.disable_progress_bar()  # a log is no terminal
    compat.keep_gradient_hooks()
    if not cuda:
        compat.prepare_cpu_training()
        refuse_half_precision(settings.precision)
    heartbeat.report("reading the data")
    inputs.ensure(run)
    tokenizer = load_tokenizer(run.base_model)
    data = training_data(run, tokenizer)
    steps = total_steps(settings, len(data.dataset), data.batch_rows, place.world_size)
    from glmjobs.training.arguments import training_arguments

    arguments = training_arguments(settings, run.checkpoints, steps, data.batch_rows, cuda=cuda)
    heartbeat.report("loading the model")
    # DeepSpeed makes its float32 master weights from what it is given; the original weights are half precision.
    precision = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[settings.precision]
    model = load_model(run.base_model, dtype=precision)
    model.config.use_cache = False
    if settings.method == "lora":
        from glmjobs.training import adapters

        model = adapters.adapt(model, settings.lora, family_for(run.base_model))
        data.figures.update(adapters.counted(model))
    trainer = GLMTrainer(
        model=model, args=arguments, train_dataset=data.dataset, data_collator=data.collator,
        processing_class=tokenizer,
    )  # fmt: skip
    trainer.heartbeat, trainer.health = heartbeat, Health(settings.precision, settings.learning_rate)
    trainer.saver = save.Saver(
        run.checkpoints, settings.save_total_limit, Agreement().open(), partial(ledger.append, run.path, stage="train"),
        estimate=partial(save.estimate, model), world_size=place.world_size, syncs=place.local_rank == 0,
    )  # fmt: skip
    return trainer, steps, data.figures


def finish(run: Run, trainer: Any, result: Any, figures: dict[str, Any], started: str, place: Rank) -> int:
    """Results in the Trainer's own files; the marker on rank 0."""
    last = committed.newest(run.checkpoints)
    if last is None or last.step != trainer.state.global_step:
        raise LastSaveFailed(
            f"{run.checkpoints}: the last step's checkpoint could not be saved ({trainer.saver.failed}); "
            f"make room and run it again: it goes on from {last.path.name if last else 'the beginning'}"
        )
    result.metrics["train_loss"] = trainer.mean_loss()
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    trainer.save_state()
    if trainer.is_world_process_zero():
        names = ("train_results.json", "all_results.json", "trainer_state.json", "train_log.jsonl")
        outputs = [run.checkpoints / name for name in names if (run.checkpoints / name).is_file()]
        run.mark(
            "train",
            started=started,
            outputs=[*outputs, last.path / committed.COMMITTED],
            figures={
                "step": last.step,
                "checkpoint": str(last.path.relative_to(run.path)),
                "checkpoint_bytes": committed.size(last.path),
                "world_size": place.world_size,
                "train_loss": result.metrics.get("train_loss"),
                "train_runtime_s": result.metrics.get("train_runtime"),
                **figures,
            },
        )
    leave()
    return 0


class LastSaveFailed(WorkFailed):
    """All steps are done and the result is not on disk; the same disk would refuse it again."""

    exit_code = EXIT_FATAL


def leave_at_once(code: int) -> NoReturn:
    """Exit without the interpreter's second of tidying up: the first rank to end has the launcher end the others."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def leave() -> None:
    """Part from the other ranks in good order."""
    if "torch.distributed" not in sys.modules:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def use_cuda(settings: TrainSection, place: Rank) -> bool:
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


def refuse_half_precision(precision: str) -> None:
    """DeepSpeed would refuse it later, with a traceback.

    Raises:
        NotFit: this CPU has no float16 (bfloat16) that DeepSpeed takes.
    """
    from deepspeed.accelerator import get_accelerator

    device = get_accelerator()
    able = {"fp16": device.is_fp16_supported, "bf16": device.is_bf16_supported, "fp32": lambda: True}[
        precision
    ]
    if not able():
        raise NotFit(
            f"train.precision: {precision}: DeepSpeed takes no {precision} on this CPU; fp32 works everywhere"
        )


def total_steps(settings: TrainSection, rows: int, batch_rows: int, world_size: int) -> int:
    """Optimizer steps in all: the planned rows of every epoch over the rows of a step; or ``max_steps``."""
    if rows == 0:
        raise WorkFailed("no training rows are left after reading and splitting the data")
    if settings.max_steps > 0:
        return settings.max_steps
    return max(1, math.ceil(rows / (batch_rows * world_size * settings.gradient_accumulation)))


def say(place: Rank, text: str) -> None:
    """A line in rank 0's log."""
    if place.rank == 0:
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
