"""One attempt at a training, in a straight line: :func:`build` what the run asks for, train it, say how it ended.

torch, transformers and DeepSpeed are imported here, at the top: this is the train stage's one slow import. Call
:func:`glmjobs.training.device.choose_device` before it.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from deepspeed.accelerator import get_accelerator
from torch.utils.cpp_extension import get_default_build_root

from glmjobs import compat
from glmjobs.models import load_model, load_tokenizer
from glmjobs.models.family import family_for, read_config
from glmjobs.models.frozen import frozen
from glmjobs.recipe.schema import Recipe, TrainSection
from glmjobs.run import rehearsal
from glmjobs.text import left_out_words
from glmjobs.training import adapters, attention, compiling, save
from glmjobs.training.agreement import Agreement
from glmjobs.training.answers import Probe
from glmjobs.training.arguments import reentrant, training_arguments
from glmjobs.training.evaluation import DevData, EndedEarly, Evaluator
from glmjobs.training.freezing import freeze
from glmjobs.training.health import Health
from glmjobs.training.killed import Killed
from glmjobs.training.loop_state import LoopState, check_rows
from glmjobs.training.measure import Measure
from glmjobs.training.mfu import peak
from glmjobs.training.resume import resume_point, saved_ranks
from glmjobs.training.save_interval import AutoSave
from glmjobs.training.telemetry import RunLog
from glmjobs.training.train_data import Reading, training_data
from glmjobs.training.trainer import GLMTrainer, StopTogether
from glmjobs.training.universal import Universal
from glmjobs.zero import committed
from hpc.chain import ledger
from hpc.core.errors import NotFit, WorkFailed
from hpc.runtime.heartbeat import Heartbeat
from hpc.runtime.rendezvous import Rank
from hpc.runtime.stop import EXIT_FATAL, StopFlag, StopRequested

STALE_BUILD_SECONDS = 900.0

SHARED_TOKENS = ".tokens"
"""Beside the runs: tokenised data, which runs of the same data, tokenizer and lengths have in common."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run gives its training.

    Attributes:
        recipe: every setting.
        run: the run directory, for progress and the ledger.
        data: its prepared rows (:func:`glmjobs.data.prepared.prepare`).
        base_model: the model directory to start from.
        checkpoints: where ``checkpoint-N`` and the results go.
        ranks: how many the run was planned for; the rows of all epochs are shared out among so many.
        place: this process among the ranks.
        cuda: train on GPUs; else on the CPU.
        begun: ``time.monotonic()`` at the attempt's begin.
    """

    recipe: Recipe
    run: Path
    data: Path
    base_model: Path
    checkpoints: Path
    ranks: int
    place: Rank
    cuda: bool
    begun: float


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: finished, with its results, or stopped early with everything saved."""

    finished: bool
    outputs: list[Path] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


class LastSaveFailed(WorkFailed):
    """All steps are done and the result is not on disk; the same disk would refuse it again."""

    exit_code = EXIT_FATAL


@dataclass(frozen=True)
class Session:
    """A training ready for its first step.

    Attributes:
        steps: optimizer steps in all, those of earlier attempts included.
        reading: what has been read after a step.
        figures: of data and model, for the record.
        measure: what it costs.
        dev: what it is evaluated on while it trains.
        probe: what it is to answer then.
    """

    inputs: Inputs
    trainer: GLMTrainer
    steps: int
    reading: Reading
    figures: dict[str, Any]
    measure: Measure
    dev: DevData | None = None
    probe: Probe | None = None

    def train(self, flag: StopFlag) -> Outcome:
        """From the newest good checkpoint to the last step, or until any rank is told to stop.

        Raises:
            StopRequested: that was before the first step.
            BadInput: the checkpoint cannot be gone on from by so many ranks, or with these rows; attention cannot be
                computed, or blocks compiled, here as the recipe says.
            Diverged: the loss is no number any more, or no step was taken (see :mod:`glmjobs.training.health`).
            LastSaveFailed: all steps are done, and the disk does not take the result.
        """
        trainer, place = self.trainer, self.inputs.place
        agreement = trainer.saver.agreement
        trainer.heartbeat.report("preparing")
        # From here on the ranks meet in collectives: whoever was told to stop has to be waited for by all.
        if agreement.all_reduce_max(int(flag.requested)):
            raise StopRequested(flag.reason)
        resume = resume_point(self.inputs.checkpoints, agreement, place.world_size, self._passed_over)
        if resume is not None:
            unknown = check_rows(resume, self.reading)
            if unknown is not None and place.rank == 0:
                save.say(f"warning: {unknown}")
        settings, run = self.inputs.recipe.train, self.inputs.run
        rank, resumes = place.rank, resume is not None
        way = attention.settle(settings, run, trainer, agreement, rank=rank, resumes=resumes)
        compiling.settle(settings, run, trainer, agreement, way, rank=rank, resumes=resumes)
        stop = StopTogether(flag, agreement, trainer, self.inputs.run / "save")
        self._add_callbacks(resume, stop)
        trainer.heartbeat.report("preparing")
        metrics = self._train(resume)
        step = trainer.state.global_step
        trainer.heartbeat.report("finishing", step)
        if place.rank == 0:
            ledger.append(self.inputs.run, "measured", stage="train", step=step, **self.measure.figures())
        pending = trainer.evaluator is not None and trainer.evaluator.pending
        if not pending and (not stop.stopped or step >= self.steps):
            return self._finish(metrics)
        if place.rank == 0:
            unsaved = " (its checkpoint could not be saved)" if trainer.saver.failed else ""
            why = flag.reason or "another rank was told"
            save.say(f"stopped at step {step} of {self.steps} ({why}){unsaved}")
        return Outcome(finished=False)

    def _train(self, resume: Path | None) -> dict[str, Any]:
        """All steps from a checkpoint on; the Trainer's figures."""
        trainer = self.trainer
        try:
            result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        except (
            EndedEarly
        ):  # what the steps after the last log line had summed up would be added at the next one
            trainer._total_loss_scalar += trainer.carried_loss or 0.0
            trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
            return {}
        return dict(result.metrics)

    def _passed_over(self, name: str, why: str) -> None:
        """A checkpoint that is not gone on from, for status and whoever heals."""
        ledger.append(self.inputs.run, "passed_over", stage="train", checkpoint=name, why=why)

    def _add_callbacks(self, resume: Path | None, stop: StopTogether) -> None:
        """What is done around the steps, in this order."""
        trainer, recipe = self.trainer, self.inputs.recipe
        trainer.loop_state = LoopState(trainer, resume, self.reading)
        callbacks: list[Any] = [trainer.loop_state]
        if resume is not None and saved_ranks(resume) != self.inputs.place.world_size:
            callbacks.insert(0, Universal(trainer, resume))
        # Saves are asked for before the ranks agree on stopping; what writes logs comes last, for it may fail.
        if recipe.train.save_steps == "auto":
            callbacks.append(AutoSave(trainer, recipe.jobs.mean_time_between_failures_hours))
        log = RunLog(self.inputs.run, trainer, self.steps, self.reading, self.measure.peak)
        callbacks += [stop, self.measure, log]
        if self.dev is not None:
            given = (trainer, self.dev, recipe.train, self.steps, lambda: stop.flag.requested)
            callbacks.append(Evaluator(*given, probe=self.probe))
        rehearsed = rehearsal.read(self.inputs.run)
        if rehearsed is not None and resume is None and self.inputs.place.rank == self.inputs.ranks - 1:
            callbacks.append(Killed(rehearsed.kill_step))
        for callback in callbacks:
            trainer.add_callback(callback)

    def _finish(self, metrics: dict[str, Any]) -> Outcome:
        """Results in the Trainer's own files, and what the stage's marker says of them."""
        inputs, trainer = self.inputs, self.trainer
        last = committed.newest(inputs.checkpoints)
        if last is None or last.step != trainer.state.global_step:
            raise LastSaveFailed(
                f"{inputs.checkpoints}: the last step's checkpoint could not be saved ({trainer.saver.failed}); "
                f"make room and run it again: it goes on from {last.path.name if last else 'the beginning'}"
            )
        if not math.isfinite(trainer.mean_loss()) or trainer.skipped_steps >= last.step:
            raise trainer.health.nothing_learned(last.step, last.step)
        read = self.reading.after(last.step)._asdict()
        metrics = {**metrics, "train_loss": trainer.mean_loss(), **read}
        trainer.log_metrics("train", metrics)
        trainer.save_metrics("train", metrics)
        trainer.save_state()
        names = ("train_results.json", "all_results.json", "trainer_state.json", "train_log.jsonl")
        results = [inputs.checkpoints / name for name in names if (inputs.checkpoints / name).is_file()]
        figures = {
            "step": last.step,
            **read,
            "checkpoint": str(last.path.relative_to(inputs.run)),
            "checkpoint_bytes": committed.size(last.path),
            "world_size": inputs.place.world_size,
            "train_loss": metrics["train_loss"],
            "skipped_steps": trainer.skipped_steps,
            "train_runtime_s": metrics.get("train_runtime"),
            **(trainer.evaluator.figures() if trainer.evaluator is not None else {}),
            **self.figures,
            **self.measure.figures(),
        }
        return Outcome(True, [*results, last.path / committed.COMMITTED], figures)

    def leave(self) -> None:
        """Part from the other ranks in good order."""
        if dist.is_initialized():
            dist.barrier()
            dist.destroy_process_group()


def prepare_libraries(settings: TrainSection, *, cuda: bool) -> None:
    """Seed everything, and set right what the installed releases get wrong. Before DeepSpeed starts.

    Raises:
        NotFit: this CPU has no float16 (bfloat16) that DeepSpeed takes; it would say so later, with a traceback.
    """
    transformers.set_seed(settings.seed)
    transformers.utils.logging.disable_progress_bar()  # a log is no terminal
    compat.keep_gradient_hooks()
    compat.keep_offloaded_gradients()
    compat.without_cudnn_attention()
    drop_stale_build_locks()
    if cuda:
        return
    compat.prepare_cpu_training()
    device, precision = get_accelerator(), settings.precision
    if (precision == "fp16" and not device.is_fp16_supported()) or (
        precision == "bf16" and not device.is_bf16_supported()
    ):
        raise NotFit(
            f"train.precision: {precision}: DeepSpeed takes no {precision} on this CPU; fp32 works everywhere"
        )


def drop_stale_build_locks() -> None:
    """Remove the locks of builds that were killed: torch waits for one without end.

    DeepSpeed compiles its operators at first use; torch guards a build by a file (torch/utils/file_baton.py) that only
    the builder removes. A build takes a minute or two, so a lock of a quarter of an hour is nobody's.
    """
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root()
    for lock in Path(root).glob("**/lock"):
        with contextlib.suppress(OSError):
            if time.time() - lock.stat().st_mtime > STALE_BUILD_SECONDS:
                lock.unlink()
                save.say(f"warning: {lock}: left by a build that was killed; removed")


def build(inputs: Inputs, heartbeat: Heartbeat) -> Session:
    """Everything before the first step: data, model, trainer."""
    settings, place = inputs.recipe.train, inputs.place
    tokenizer = load_tokenizer(inputs.base_model)
    positions = family_for(inputs.base_model).positions(read_config(inputs.base_model))
    shared = inputs.run.parent / SHARED_TOKENS
    data = training_data(inputs.recipe, inputs.data, inputs.ranks, tokenizer, positions, shared)
    dev = DevData.load(inputs.recipe, inputs.data, tokenizer, positions, shared)
    probe = Probe.load(inputs.recipe, inputs.data, tokenizer, positions) if dev is not None else None
    if place.rank == 0:
        tell_data(inputs.run, data.figures)
    steps = total_steps(settings, data.reading)
    arguments = training_arguments(settings, inputs.checkpoints, steps, data.batch_rows, cuda=inputs.cuda)
    heartbeat.report("loading the model")
    model, counts = trainable_model(settings, inputs.base_model, arguments.device)
    cache = model.config.use_cache
    saver = save.Saver(
        inputs.checkpoints, settings.save_total_limit,
        Agreement().open(),  # the processes have met when the arguments were made
        partial(ledger.append, inputs.run, stage="train"),
        estimate=partial(save.estimate, model), world_size=place.world_size, syncs=place.local_rank == 0,
    )  # fmt: skip
    trainer = GLMTrainer(
        model=model, args=arguments, train_dataset=data.dataset, data_collator=data.collator,
        processing_class=tokenizer, saver=saver, heartbeat=heartbeat,
        health=Health(settings.precision, settings.learning_rate),
    )  # fmt: skip
    model.config.use_cache = (
        cache  # the Trainer turns it off, and would save it so; no step of training makes a cache
    )
    best = peak(settings, inputs.base_model, data.reading, place.world_size, arguments.device)
    measure = Measure(saver, saver.agreement, data.reading, inputs.begun, best)
    return Session(inputs, trainer, steps, data.reading, {**data.figures, **counts}, measure, dev, probe)


def tell_data(run: Path, figures: dict[str, Any]) -> None:
    """What is trained on and what is left out: in the log and, for status and the report, in the ledger."""
    told = {name: figures[name] for name in ("examples", "left_out", "cut_questions")}
    ledger.append(run, "data", stage="train", **told)
    save.say(f"data: {figures['examples']:,} training examples{left_out_words(told)}")


def trainable_model(
    settings: TrainSection, base_model: Path, device: torch.device
) -> tuple[Any, dict[str, int]]:
    """The model with what is trained of it, on the device where it is, and figures for the record."""
    # DeepSpeed makes its float32 master weights from what it is given; the original weights are half precision.
    dtype = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[settings.precision]
    model = load_model(base_model, dtype, None if device.type == "cpu" else device)
    if settings.label_smoothing:
        model.get_output_embeddings().label_smoothing = settings.label_smoothing
    family = family_for(base_model)
    if settings.method != "lora" and settings.freeze:
        architecture = family.architecture(read_config(base_model))
        freeze(model, frozen(settings.freeze, architecture), architecture.layers)
        if reentrant(settings):
            model.enable_input_require_grads()
        return model, adapters.counted(model)
    if settings.method != "lora":
        return model, {}
    transformers.set_seed(
        settings.seed
    )  # loading under ZeRO-3 may draw numbers: adapters are to begin the same
    model = adapters.adapt(model, settings.lora, family)
    if reentrant(settings):
        model.enable_input_require_grads()  # frozen embeddings give none, and blocks would be left out of the graph
    return model, adapters.counted(model)


def total_steps(settings: TrainSection, reading: Reading) -> int:
    """Optimizer steps in all: as many as read the planned rows of every epoch; or ``max_steps``."""
    if not len(reading.plan):
        raise WorkFailed("no training rows are left after reading and splitting the data")
    if settings.max_steps > 0:
        return settings.max_steps
    return reading.steps
