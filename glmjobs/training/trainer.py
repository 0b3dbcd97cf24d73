"""transformers' Trainer, extended through its own seams: checkpoints that count once they are committed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glmjobs import compat
from glmjobs.training import save
from glmjobs.training.agreement import Agreement
from glmjobs.training.evaluation import Evaluator
from glmjobs.training.health import AT_MINIMUM, NEVER, Health
from glmjobs.training.loop_state import LoopState
from glmjobs.zero import committed
from hpc.core.files import read_json
from hpc.runtime.heartbeat import Heartbeat
from hpc.runtime.stop import StopFlag


class GLMTrainer(Trainer):  # type: ignore[misc]
    """Trains with DeepSpeed; a checkpoint counts only once it is committed.

    Attributes:
        saver: how checkpoints are saved.
        health: watches the loss.
        heartbeat: this rank's heartbeat.
        loop_state: keeps the sums that a resume takes up; to be set before training.
        running_loss: sum of the losses since the last log line, on the device.
        carried_loss: what an earlier attempt had summed up since its last log line, until the first micro-step.
        evaluator: evaluates after steps; None: nobody does.
    """

    loop_state: LoopState
    evaluator: Evaluator | None = None

    def __init__(self, *, saver: save.Saver, health: Health, heartbeat: Heartbeat, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.saver, self.health, self.heartbeat = saver, health, heartbeat
        self.running_loss: torch.Tensor | None = None
        self.carried_loss: float | None = None
        self.tried_to_save: int | None = None

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        """Rows are read in the order they were planned in."""
        return SequentialSampler(self.train_dataset)

    @staticmethod
    def get_optimizer_cls_and_kwargs(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """transformers'; where Adam is not fused, one kernel after the other.

        DeepSpeed's partition is one flat tensor, so torch's loop over lists of tensors has nothing to join, and its
        kernels before torch 2.4 count elements in 32 bits: 10 B parameters on four GPUs are 2.5e9 on each.
        """
        kind, options = Trainer.get_optimizer_cls_and_kwargs(*args, **kwargs)
        if not compat.FUSED_ADAM:
            options["foreach"] = False
        return kind, options

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """One micro-step. Bad losses are noted on the device; nobody waits for them here."""
        step = self.state.global_step + 1
        self.heartbeat.report("training", step)
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        except Exception as error:
            if AT_MINIMUM in str(error):
                raise self.health.at_minimum(step, self.newest_step()) from error
            raise
        self.health.note(loss, step)
        loss = self.health.counted(loss)
        if self.carried_loss is not None:
            loss, self.carried_loss = loss + self.carried_loss, None
        return loss

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass; after it the ranks meet in the gradients, so that a beat tells who never got there."""
        loss = super().compute_loss(*args, **kwargs)
        self.heartbeat.report("training", self.state.global_step + 1)
        return loss

    def mean_loss(self) -> float:
        """Mean loss over all steps of the training, those of earlier attempts included."""
        steps: int = self.state.global_step
        return float(self._total_loss_scalar) / max(1, steps)

    @property
    def skipped_steps(self) -> int:
        """Steps that DeepSpeed left out because float16 overflowed, those of earlier attempts included."""
        return int(getattr(self.model_wrapped, "skipped_steps", 0))

    def newest_step(self) -> int | None:
        """Step of the newest committed checkpoint."""
        found = committed.newest(Path(self.args.output_dir))
        return found.step if found else None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; a disk too full for a log line must not end the training."""
        try:
            super().log(logs, *args, **kwargs)
        except OSError as error:
            save.say(f"warning: cannot write the log of step {self.state.global_step}: {error}")

    def _maybe_log_save_evaluate(self, tr_loss: Any, *args: Any, **kwargs: Any) -> None:
        self.running_loss = tr_loss
        try:
            super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)
        except OSError as error:  # by now only a callback's: writes of a checkpoint keep their errors
            save.say(f"warning: step {self.state.global_step}: {error}")
        if self.evaluator is not None:
            self.evaluator.after_step(self.tried_to_save == self.state.global_step, self._save_unasked)

    def _save_unasked(self) -> None:
        self._save_checkpoint(self.model_wrapped, None)
        self.callback_handler.on_save(self.args, self.state, self.control)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.tried_to_save = self.state.global_step
        self.heartbeat.report("saving", step, growing=self.saver.folder / f"checkpoint-{step}")
        save.keep_errors(self.model_wrapped, self.saver.writes)
        write = super()._save_checkpoint
        if step < self.state.max_steps and not self.saver.last:
            self.saver.save(step, lambda: write(model, trial))
        else:
            self.saver.save_last(step, lambda: write(model, trial), self._waiting)
        self.heartbeat.report("training", step)

    def _waiting(self) -> bool:
        """A look for room by the last save; whether this rank is told to stop."""
        self.heartbeat.report("saving", self.state.global_step, growing=self.saver.folder)
        flag = self.heartbeat.flag
        return flag is not None and flag.requested

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What describes the model; of weights, a LoRA's factors alone.

        transformers would write all weights once more in half precision, which consolidation makes of the optimizer's,
        and copy them on every rank of a node; for an adapter of some millions the whole base model with it.
        """
        weights = self._adapter() if hasattr(self.model, "peft_config") else {}
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _adapter(self) -> dict[str, torch.Tensor]:
        """What is trained beside a frozen base model, by name; under ZeRO-3 gathered, by all ranks together."""
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if self.model_wrapped.zero_optimization_stage() < 3:
            return {name: p.detach() for name, p in trained.items()}
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(trained.values())):
            return {name: p.detach().cpu().clone() for name, p in trained.items()}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        self.saver.writes.do("model.safetensors", super()._save, output_dir, state_dict)
        if state_dict == {} and self.args.should_save and output_dir is not None:
            for name in (
                "model.safetensors",
                "pytorch_model.bin",
            ):  # a file without weights would only mislead
                (Path(output_dir) / name).unlink(missing_ok=True)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """DeepSpeed's own checkpoint. ``latest`` comes after everything else, so that it never names half a one."""
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            latest = f"global_step{self.model_wrapped.global_steps}"
            self.saver.writes.do("latest", (Path(output_dir) / "latest").write_text, latest)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """A checkpoint's state, at the recipe's learning rate and on its schedule, which may have changed since: a rate
        lowered after a divergence, a training made longer."""
        super()._load_optimizer_and_scheduler(checkpoint)
        schedule, rate = self.lr_scheduler, self.args.learning_rate
        if checkpoint is None or not isinstance(
            schedule, torch.optim.lr_scheduler.LambdaLR
        ):  # DeepSpeed's own, from its configuration
            return
        before, last = schedule.base_lrs[0], schedule.get_last_lr()[0]
        for group in self.optimizer.param_groups:
            group["initial_lr"] = rate
        schedule.base_lrs = [rate] * len(schedule.base_lrs)
        schedule._last_lr = [rate * shape(schedule.last_epoch) for shape in schedule.lr_lambdas]
        # Of the Trainer's two groups DeepSpeed drops one that is empty: LoRA trains nothing without weight decay.
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.get_last_lr()[0]
        if not self.args.should_save:
            return
        if before != rate:
            save.say(
                f"learning rate: {before:g} in the checkpoint, {rate:g} from here on, as the recipe says"
            )
        planned = (read_json(Path(checkpoint) / "trainer_state.json") or {}).get("max_steps")
        if planned and planned != self.args.max_steps:
            save.say(
                f"{self.args.max_steps:,} steps in all instead of {planned:,}: the learning rate was {last:.3g}, it is "
                f"{schedule.get_last_lr()[0]:.3g} from here on ({self.args.lr_scheduler_type.value})"
            )

    def _save_rng_state(self, output_dir: str) -> None:
        self.saver.writes.do("rng_state", super()._save_rng_state, output_dir)
        self.saver.writes.do("loop_state", self.loop_state.save, Path(output_dir))


class StopTogether(TrainerCallback):  # type: ignore[misc]
    """All ranks stop at the same step: a signal that reached any rank is known to all at the next step's end.

    So is a loss that is no number: looked at where the device is waited for anyway, to log or to save; and a file
    ``request``, by which a person asks for a checkpoint: the first rank looks for it, and takes it away afterwards.
    """

    def __init__(self, flag: StopFlag, agreement: Agreement, trainer: GLMTrainer, request: Path) -> None:
        self.flag, self.agreement, self.trainer, self.request = flag, agreement, trainer, request
        self.stopped = False
        self.answered = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask everyone; stop and save where anyone was told to.

        Raises:
            Diverged: on all ranks, before anything is saved.
        """
        trainer, step = self.trainer, state.global_step
        engine, health = trainer.model_wrapped, trainer.health
        trainer.heartbeat.report("training", step)
        health.after_step(engine)
        last = step >= state.max_steps
        asked = trainer.saver.first and not self.answered and os.path.exists(self.request)  # noqa: PTH110
        told = self.agreement.all_reduce_max(2 if self.flag.requested else int(asked))
        stop = told == 2
        control.should_save = control.should_save or told == 1
        if stop or last or control.should_log or control.should_save:
            bad = self.agreement.all_reduce_min(health.first_bad_step(engine, step))
            if bad != NEVER:
                raise health.error(bad, trainer.newest_step())
        if last:
            control.should_log = control.should_save = True
        elif stop:
            self.stopped = True
            control.should_save = True
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A checkpoint that was asked for is there, or could not be saved, which was said: asked once, tried once."""
        if not self.trainer.saver.first or self.answered or not os.path.exists(self.request):  # noqa: PTH110
            return
        done = "was not saved" if self.trainer.saver.failed else "saved"
        try:
            self.request.unlink()
            then = "the file is removed"
        except OSError as error:  # it would ask again at every step
            self.answered, then = (
                True,
                f"the file cannot be removed ({error.strerror}), and is not looked at again",
            )
        save.say(f"checkpoint-{state.global_step} {done}, as {self.request} asked; {then}")
