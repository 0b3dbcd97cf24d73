"""A training made longer, or asked for less than is done, and what its learning rate does from there."""

from __future__ import annotations

import math
from collections.abc import Collection

from glmjobs.recipe.schema import Recipe, TrainSection
from glmjobs.run.directory import Run
from glmjobs.run.reached import Reached, redo
from glmjobs.zero import committed
from hpc.chain import ledger
from hpc.core import hints
from hpc.core.errors import BadInput
from hpc.core.files import read_json

LENGTH = ("train.epochs", "train.max_steps")
"""The fields that say how long a training is."""


def check_length(run: Run, recipe: Recipe, changed: Collection[str], at: Reached) -> None:
    """Hold a new length against what is done.

    Raises:
        BadInput: it is no more than that; its rows could not be those that were read; or no checkpoint is left.
    """
    train = recipe.train
    by_steps = train.max_steps > 0
    wanted, done = (train.max_steps, at.step) if by_steps else (train.epochs, at.epoch)
    if wanted <= done:
        said = f"train.max_steps = {wanted}" if by_steps else f"train.epochs = {wanted:g}"
        other = by_steps and "train.max_steps" not in changed
        raise BadInput(
            f"{said}: training has done {at} already; ask for more"
            + (f", or let epochs decide: {hints.setting('train.max_steps', -1)}" if other else "")
        )
    if "train.epochs" in changed and at.epoch > run.recipe.train.epochs * 1.0001:
        raise BadInput(
            f"train.epochs = {train.epochs:g}: training has read its {run.recipe.train.epochs:g} epochs and begun them "
            "again, as train.max_steps said; only a larger train.max_steps makes it longer"
        )
    ended = ((ledger.marker(run.path, "train") or {}).get("figures") or {}).get("ended_early")
    if at.finished and ended and "train.early_stop" not in changed:
        raise BadInput(
            f"training was ended early: {ended}; to go on, change that as well: "
            + hints.setting("train.early_stop", "null")
        )
    if at.finished and committed.newest(run.checkpoints) is None:
        raise BadInput(
            f"{run.checkpoints}: no checkpoint is left, and with it no optimizer state to go on from; go on from the "
            f"weights in a new run: submit the recipe with {hints.setting('model.path', run.model)}"
        )


def reopen(run: Run, recipe: Recipe, at: Reached) -> str:
    """Let the stages of a finished run that rest on its training be done again; what is said of it.

    What the training had come to is on record as a part of its own: length, loss, accuracies.
    """
    whole = recipe.train
    words = f"made longer: {at} were done; {length(whole)} in all"
    figures = (ledger.marker(run.path, "train") or {}).get("figures") or {}
    accuracy = {
        which: summary["accuracy"]
        for which in ("base", "finetuned")
        if (summary := read_json(run.scores / which / "summary.json")) and "accuracy" in summary
    }
    told = {name: figures.get(name) for name in ("step", "epoch", "tokens", "train_loss")}
    redo(run.path, "training was made longer")
    ledger.reopen(run.path, "train", words, **told, accuracy=accuracy or None)
    found = committed.newest(run.checkpoints)
    assert found is not None, "check_length has seen one"
    return f"goes on from {found.path.name}: {length(whole)} in all; {learning_rate(whole, at)}"


def length(train: TrainSection) -> str:
    """How long a training is to be, in words."""
    return f"{train.max_steps:,} steps" if train.max_steps > 0 else f"{train.epochs:g} epochs"


def learning_rate(train: TrainSection, at: Reached) -> str:
    """What the learning rate does where a training is made longer: its schedule is stretched over the whole."""
    done = at.step / train.max_steps if train.max_steps > 0 else at.epoch / train.epochs
    rate = train.learning_rate * share_of_rate(train.scheduler, min(1.0, done), train.warmup_ratio)
    after = "stays there" if train.scheduler == "constant" else "falls to 0 at the new end"
    return (
        f"the learning rate is about {rate:.3g} from there on ({train.scheduler}, over the whole) and {after}"
    )


def share_of_rate(scheduler: str, done: float, warmup: float) -> float:
    """The share of its highest learning rate that a schedule gives after a part of the training, both from 0 to 1.

    As transformers' schedules (optimization.py): linear warm-up, then constant, linear or half a cosine down to 0.
    """
    if done < warmup:
        return done / warmup
    if scheduler == "constant":
        return 1.0
    left = (1 - done) / (1 - warmup)
    return left if scheduler == "linear" else 0.5 * (1 - math.cos(math.pi * left))
