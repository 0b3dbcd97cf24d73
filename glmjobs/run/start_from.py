"""``train.init_from``: a new run that starts from what an earlier one has made (its consolidated model)."""

from __future__ import annotations

import sys

from glmjobs.recipe.schema import Recipe
from glmjobs.run.directory import Run
from glmjobs.run.reached import behind
from glmjobs.zero.directories import is_adapter, is_model
from hpc.chain import ledger
from hpc.core import hints
from hpc.core.errors import BadInput


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with that run's model as its base model, and the run's path; as it is where it names none.

    Raises:
        BadInput: there is no such run, it has no model yet, or one of another family.
    """
    if recipe.train.init_from is None:
        return recipe
    earlier = _open(recipe.train.init_from)
    found, wanted = earlier.recipe.model.family, recipe.model.family
    if found != wanted:
        raise BadInput(
            f"train.init_from: {earlier.path} made a model of the family {found}, the recipe says model.family = "
            f"{wanted}"
        )
    if not earlier.done("consolidate") or not (is_model(earlier.model) or is_adapter(earlier.model)):
        raise BadInput(
            f"train.init_from: {earlier.path} has no model yet (its consolidate stage is not done): "
            + hints.command("glmjobs.status", earlier.path)
        )
    if why := behind(earlier.path):
        raise BadInput(f"train.init_from: {earlier.path}: {why}; first: {hints.command('glmjobs.heal', earlier.path)}")
    given = recipe.model.path
    if given not in (None, str(earlier.model)):
        print(
            f"note: training starts from {earlier.model} (train.init_from), not from model.path",
            file=sys.stderr,
        )
    model = recipe.model.model_copy(update={"path": str(earlier.model), "make": None})
    train = recipe.train.model_copy(update={"init_from": str(earlier.path)})
    return recipe.model_copy(update={"model": model, "train": train})


def _open(where: str) -> Run:
    try:
        return Run.open(where)
    except BadInput as error:
        raise BadInput(f"train.init_from: {error}") from None


def record(run: Run) -> None:
    """Put on record, once, which model of which run it is that this one starts from; nothing where it names none."""
    where = run.recipe.train.init_from
    if where is None or ledger.events(run.path, event="starts_from"):
        return
    earlier = _open(where)
    made = ledger.marker(earlier.path, "consolidate") or {}
    ledger.append(
        run.path, "starts_from", stage="train", earlier=str(earlier.path), key=earlier.file.key,
        checkpoint=(made.get("figures") or {}).get("step"), model=made.get("outputs"), base=earlier.recipe.model.path,
    )  # fmt: skip
