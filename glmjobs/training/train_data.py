"""The training rows of a run: every row of every epoch, in the order in which they are read.

The order is fixed before the first step, so where training stands is one number, the step; a resume continues with the
very next row. ``per_device_batch_size`` counts examples: packed, a micro-batch has as many rows as hold that many on
average.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glmjobs.data import packing
from glmjobs.data.collate import PackedCollator, PackedDataset, PaddedCollator
from glmjobs.data.prepared import Prepared
from glmjobs.data.splitting import Part
from glmjobs.data.tokenised import Tokenised, tokenise
from glmjobs.models.family import family_for
from glmjobs.recipe.schema import Recipe, TrainSection
from glmjobs.run.lengths import check_left_out


class Read(NamedTuple):
    """What has been read: epochs, and real (not padding) tokens of all ranks together."""

    epoch: float
    tokens: int


class Reading:
    """How far a plan is read after any step: counted, not measured, so the same in every attempt.

    Where the plan ends before the training does (``train.max_steps``), it is read again from its start.
    """

    def __init__(
        self, plan: packing.PackingPlan, lengths: npt.ArrayLike, step_rows: int, examples: str = ""
    ) -> None:
        """``lengths``: int[examples], tokens; ``step_rows``: rows of an optimizer step, on all ranks; ``examples``:
        their digest."""
        self.plan, self.step_rows, self.examples = plan, step_rows, examples
        sizes = np.asarray(lengths, dtype=np.int64)[plan.members]
        self.tokens = np.concatenate([[0], np.cumsum(sizes)])[plan.offsets]
        self.attended = float((sizes**2).sum() / max(1, sizes.sum()))
        """The length that a token attends over, its own example's, on average over tokens."""

    @property
    def steps(self) -> int:
        """Optimizer steps until the plan is read once."""
        return max(1, math.ceil(len(self.plan) / self.step_rows))

    def after(self, step: int) -> Read:
        """Epochs and tokens after ``step`` optimizer steps."""
        times, rows = self._rows(step)
        return Read(
            round(times * self.plan.epochs + self.plan.epochs_in(rows), 6),
            int(times * self.tokens[-1] + self.tokens[rows]),
        )

    def record(self, step: int) -> dict[str, Any]:
        """What has to be equal for a resume after ``step`` to go on with the rows that come next.

        Only rows that were read: a training may be made longer.
        """
        times, rows = self._rows(step)
        offsets = self.plan.offsets[: (len(self.plan) if times else rows) + 1]
        order = hashlib.sha256(offsets.tobytes() + self.plan.members[: offsets[-1]].tobytes())
        return {"examples": self.examples, "step_rows": self.step_rows, "order": order.hexdigest()}

    def _rows(self, step: int) -> tuple[int, int]:
        """How often the whole plan was read after ``step``, and how many of its rows since."""
        times, more = divmod(step, self.steps)
        return times, min(more * self.step_rows, len(self.plan))


@dataclass(frozen=True)
class TrainingData:
    """Rows in order, how they become batches, and figures for the record.

    Attributes:
        batch_rows: rows of a micro-batch on one GPU.
        reading: what has been read after a step.
    """

    dataset: PackedDataset
    collator: Any
    batch_rows: int
    reading: Reading
    figures: dict[str, Any]


def training_data(
    recipe: Recipe,
    folder: Path,
    ranks: int,
    tokenizer: Any,
    positions: int | None = None,
    shared: Path | None = None,
) -> TrainingData:
    """Tokenise (or find tokenised) and plan the rows of the whole training.

    Args:
        folder: the prepared rows; the tokens are kept in it.
        ranks: how many share the rows of a step.
        positions: that the model has; an example that takes more is left out.
        shared: where runs of the same data, tokenizer and lengths have their tokens in common.
    """
    settings = recipe.train
    tokenised = tokens_of("train", recipe, folder, tokenizer, positions, shared)
    too_long = {reason: n for reason, n in tokenised.figures["left_out"].items() if n}
    check_left_out(recipe.data, too_long, len(tokenised))
    batch_rows = settings.per_device_batch_size
    if settings.packing:
        one = packing.plan_epoch(tokenised.lengths, settings.pack_length, seed=settings.seed)
        batch_rows = rows_for(settings.per_device_batch_size, len(tokenised), len(one))
    step_rows = batch_rows * settings.gradient_accumulation * ranks
    plan = rows_plan(tokenised, settings, step_rows)
    pad = int(tokenizer.pad_token_id)
    collator = (
        PackedCollator(settings.pack_length, pad) if settings.packing else PaddedCollator(pad, multiple=8)
    )
    figures = {
        "examples": len(tokenised),
        "example_tokens": int(tokenised.lengths.sum()),
        "rows": len(plan),
        "batch_rows": batch_rows,
        "fill": round(plan.fill, 4),
        "left_out": {**Prepared.load(folder).left_out, **too_long},
        "cut_questions": tokenised.figures["cut_questions"],
    }
    reading = Reading(plan, tokenised.lengths, step_rows, tokenised.digest())
    return TrainingData(PackedDataset(tokenised, plan), collator, batch_rows, reading, figures)


def tokens_of(
    part: Part,
    recipe: Recipe,
    folder: Path,
    tokenizer: Any,
    positions: int | None,
    shared: Path | None = None,
) -> Tokenised:
    """The tokens of the prepared train or dev rows, made where they are not there yet; see :func:`training_data`."""
    return tokenise(
        Prepared.load(folder), part, tokenizer, family_for(recipe.model.family), folder / "tokens",
        max_source_length=recipe.data.max_source_length, max_target_length=recipe.data.max_target_length,
        too_long=recipe.data.too_long, label_sop=recipe.train.label_sop, positions=positions,
        loss_on=recipe.data.loss_on, shared=shared,
    )  # fmt: skip


def rows_for(examples: int, all_examples: int, all_rows: int) -> int:
    """Packed rows that hold ``examples`` on average, at least one."""
    return max(1, round(examples * all_rows / max(1, all_examples)))


def rows_plan(tokenised: Tokenised, settings: TrainSection, multiple: int) -> packing.PackingPlan:
    """The rows of all epochs, a multiple of what one optimizer step takes on all ranks."""
    length = settings.pack_length if settings.packing else int(tokenised.lengths.max(initial=1))
    return packing.plan_epochs(
        tokenised.lengths, length, epochs=settings.epochs, seed=settings.seed, multiple=multiple,
        packed=settings.packing,
    )  # fmt: skip
