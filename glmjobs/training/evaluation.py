"""Evaluation while training: loss and token accuracy on the first dev rows, before the first step, every so many steps
and after the last.

The dev examples are always packed, in an order of their own, and a batch is the same whichever rank computes it; the
sums of all batches are added up in order. So the figures are the same, to the bit, at any number of ranks and whether
or not the training packs. Nothing is drawn from a random number generator and dropout is off: a training goes on as if
it had not been evaluated.

A step is saved before it is evaluated, where both are due. A stop signal ends the evaluation within a batch; a resumed
training first makes up for an evaluation that its step should have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from glmjobs.data import packing
from glmjobs.data.collate import Batch, PackedCollator, PackedDataset, target_tokens
from glmjobs.data.tokenised import Tokenised
from glmjobs.recipe.schema import Recipe, TrainSection
from glmjobs.run import evaluations
from glmjobs.run.evaluations import Evaluation
from glmjobs.text import left_out_words
from glmjobs.training.answers import Probe
from glmjobs.training.save import say
from glmjobs.training.train_data import rows_for, tokens_of
from glmjobs.zero import committed
from hpc.runtime.stop import StopRequested


@dataclass(frozen=True)
class DevData:
    """Packed rows of dev examples, in batches.

    Attributes:
        examples: how many.
        digest: what tells evaluations on other examples apart.
        left_out: dev rows that are too long, by reason.
    """

    dataset: PackedDataset
    collator: PackedCollator
    batch_rows: int
    examples: int
    digest: str
    left_out: dict[str, int]

    @classmethod
    def load(
        cls, recipe: Recipe, folder: Path, tokenizer: Any, positions: int | None, shared: Path | None = None
    ) -> DevData | None:
        """The dev examples of the prepared rows in ``folder``, or None where the recipe evaluates on none."""
        if recipe.train.eval_steps is None:
            return None
        tokenised = tokens_of("dev", recipe, folder, tokenizer, positions, shared)
        return cls.of(tokenised, recipe.train, int(tokenizer.pad_token_id))

    @classmethod
    def of(cls, tokenised: Tokenised, settings: TrainSection, pad_id: int) -> DevData:
        """Pack the first ``settings.eval_rows`` examples, whether or not the training packs."""
        count = min(settings.eval_rows or len(tokenised), len(tokenised))
        lengths = tokenised.lengths[:count]
        width = max(settings.pack_length, int(lengths.max()))
        plan = packing.plan_epoch(lengths, width)
        return cls(
            PackedDataset(tokenised, plan), PackedCollator(width, pad_id),
            rows_for(settings.per_device_batch_size, count, len(plan)), count,
            f"{tokenised.digest()[:16]}-{count}", {k: n for k, n in tokenised.figures["left_out"].items() if n},
        )  # fmt: skip

    def __len__(self) -> int:
        """Batches in all."""
        return -(-len(self.dataset) // self.batch_rows)

    def batch(self, index: int) -> Batch:
        """One batch, as training has them."""
        first = index * self.batch_rows
        rows = range(first, min(first + self.batch_rows, len(self.dataset)))
        return self.collator([self.dataset[row] for row in rows])


class EndedEarly(Exception):
    """A resumed training has nothing left to do: its last evaluation had ended it."""


class Evaluator(TrainerCallback):  # type: ignore[misc]
    """Evaluates ``trainer``'s model where it is due, and says what follows. All ranks call it alike.

    Args:
        steps: of the whole training.
        told_to_stop: whether this rank was.
        probe: questions to be answered, too.

    Attributes:
        rows: the evaluations so far, as the log has them.
        seconds: what the evaluations of this attempt have taken.
        pending: a stop signal has ended an evaluation, which the next attempt makes.
        ended: why ``train.early_stop`` has ended the training; None where it has not.
    """

    def __init__(
        self,
        trainer: Any,
        data: DevData,
        settings: TrainSection,
        steps: int,
        told_to_stop: Callable[[], bool],
        probe: Probe | None = None,
    ) -> None:
        self.trainer, self.data, self.settings, self.steps = trainer, data, settings, steps
        self.told_to_stop, self.probe = told_to_stop, probe
        self.every = evaluations.interval(settings, steps)
        self.rows: list[Evaluation] = []
        self.seconds = 0.0
        self.pending = False
        self.ended: str | None = None
        trainer.evaluator, trainer.saver.best = self, self.best_saved
        if self._first:
            say(
                f"evaluation: {data.examples:,} dev examples every {self.every:,} steps{left_out_words(vars(data))}"
            )

    def due(self, step: int) -> bool:
        """Whether a step is evaluated, and was not yet."""
        wanted = step % self.every == 0 or step >= self.steps
        return wanted and not any(int(row["step"]) == step for row in self.rows)

    def best(self) -> int | None:
        """The step of the best evaluation so far, where its checkpoint is wanted."""
        return self._best([int(row["step"]) for row in self.rows if row["step"]])

    def best_saved(self) -> int | None:
        """The same of those whose checkpoints are there."""
        return self._best([step for step, _ in committed.folders(self.trainer.saver.folder)])

    def _best(self, steps: Collection[int]) -> int | None:
        if self.settings.keep == "last":
            return None
        top = evaluations.best(self.rows, self.settings.metric, steps)
        return int(top["step"]) if top else None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Take up the evaluations of earlier attempts, and make the one that is missing.

        Raises:
            StopRequested: a rank was told to stop meanwhile; everything is saved.
            EndedEarly: there is no step left to take.
        """
        step = int(state.global_step)
        found = evaluations.read(Path(args.output_dir))
        known = [r for r in found if int(r["step"]) <= step and r.get("dev_set") == self.data.digest]
        self.rows = self.trainer.saver.agreement.broadcast(known)
        if self.due(step) and not self.evaluate(step):
            raise StopRequested("in an evaluation")
        if step and self.exhausted(step):
            raise EndedEarly

    def after_step(self, saved: bool, save: Callable[[], object]) -> None:
        """Evaluate where it is due, once the step is saved where it should be.

        Args:
            saved: a save of this step was made, or tried.
            save: saves this step.
        """
        step = int(self.trainer.state.global_step)
        if self.trainer.control.should_training_stop and step < self.steps:
            return  # told to stop: the next attempt evaluates this step, where it was saved
        if self.pending or not self.due(step):
            return
        whole = self.evaluate(step)
        over = whole and step < self.steps and self.exhausted(step)
        if over:
            self.trainer.saver.last = True
        if not saved and (not whole or over or self.best() == step):
            save()
        if not whole or over:
            self.pending = not whole
            self.trainer.control.should_training_stop = True

    def evaluate(self, step: int) -> bool:
        """Evaluate the model as it is; False where a rank was told to stop meanwhile."""
        began = time.monotonic()
        with evaluating(self.trainer.model_wrapped) as engine:
            sums = self._sums(engine, step)
            answers = self._answers(step) if sums is not None and self.probe is not None else {}
        took = time.monotonic() - began
        self.seconds += took
        if sums is None or answers is None:
            if self._first:
                say(f"step {step}: the evaluation is left to the next attempt")
            return False
        loss, hits, targets = sums
        row = {
            "step": step,
            "dev_loss": loss / targets if math.isfinite(loss) else None,
            "dev_token_accuracy": hits / targets,
            "dev_tokens": int(targets),
            "dev_examples": self.data.examples,
            "dev_set": self.data.digest,
            **answers,
            "dev_seconds": round(took, 3),
        }
        self.rows.append(row)
        trainer = self.trainer
        trainer.callback_handler.on_evaluate(trainer.args, trainer.state, trainer.control, row)
        return True

    @torch.no_grad()  # not inference_mode: ZeRO-3 goes on to use the tensors that it gathers
    def _sums(self, engine: Any, step: int) -> tuple[float, float, float] | None:
        """Sum of the losses, labels that were the likeliest token, and labels; None: a rank was told to stop."""
        agreement, place = self.trainer.saver.agreement, self.trainer.args.process_index
        ranks, head = self.trainer.args.world_size, self.trainer.model.get_output_embeddings()
        table = torch.zeros(len(self.data), 3, dtype=torch.float64, device=self.trainer.args.device)
        for first in range(0, len(self.data), ranks):
            self.trainer.heartbeat.report("evaluating", step)
            if agreement.all_reduce_max(int(self.told_to_stop())):
                return None
            mine = first + place
            # Under ZeRO-3 the ranks compute in step: whoever has no batch left computes one that does not count.
            inputs = self.trainer._prepare_inputs(self.data.batch(min(mine, len(self.data) - 1)))
            loss = engine(**inputs, num_items_in_batch=1, return_logits=False).loss
            if mine < len(self.data):
                table[mine] = torch.stack([loss.double(), head.hits.double(), target_tokens(inputs).double()])
        loss, hits, targets = (float(sum(column)) for column in agreement.add(table).T.tolist())
        return loss, hits, targets

    def _answers(self, step: int) -> dict[str, Any] | None:
        """What the probe found; None: a rank was told to stop."""
        trainer = self.trainer

        def told() -> bool:
            trainer.heartbeat.report("answering", step)
            return self.told_to_stop()

        assert self.probe is not None
        whole = trainer.model_wrapped.zero_optimization_stage() < 3
        model = trainer.model.get_base_model() if hasattr(trainer.model, "peft_config") else trainer.model
        return self.probe.ask(model, trainer.saver.agreement, whole=whole, told=told)

    def exhausted(self, step: int) -> bool:
        """Whether ``train.early_stop`` ends the training after ``step``; says why."""
        patience, metric = self.settings.early_stop, self.settings.metric
        if patience is None or evaluations.without_gain(self.rows, metric) < patience:
            return False
        name, top = evaluations.METRICS[metric][0], evaluations.best(self.rows, metric)
        than = f"better than {top[metric]:.4g} at step {top['step']}" if top else "a number"
        self.ended = f"no {name} {than} in {patience} evaluations (train.early_stop)"
        if self._first:
            say(f"training ends at step {step} of {self.steps}: {self.ended}")
        return True

    def figures(self) -> dict[str, Any]:
        """For the record: the best evaluation and the last, and why training ended early."""
        top = evaluations.best(self.rows, self.settings.metric)
        return {
            "best": {"step": top["step"], self.settings.metric: top[self.settings.metric]} if top else None,
            "dev_loss": self.rows[-1]["dev_loss"] if self.rows else None,
            "ended_early": self.ended,
        }

    @property
    def _first(self) -> bool:
        return bool(self.trainer.saver.first)


@contextmanager
def evaluating(engine: Any) -> Iterator[Any]:
    """A model without dropout; afterwards as it was."""
    was = engine.training
    engine.eval()
    try:
        yield engine
    finally:
        engine.train(was)
