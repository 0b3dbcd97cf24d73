"""A rehearsal: the run of another recipe for a few steps, with a save, a rank that is killed, and all stages after it.

``rehearsal.json`` in its run directory makes a run one, and keeps the recipe that is rehearsed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from glmjobs.recipe.loading import parse
from glmjobs.recipe.schema import Limits, Recipe
from hpc.core.errors import BadInput
from hpc.core.files import read_json, write_json

FILE = "rehearsal.json"
FOLDER = ".first-layers"
"""Beside the runs: models of fewer layers (``--layers``), for rehearsals alone."""
STEPS, SAVE_STEP, KILL_STEP = 20, 10, 13
"""Optimizer steps in all; when the checkpoint is saved that is gone on from; after which step the last rank is
killed."""

ROWS = 8
"""Dev rows that are answered."""


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed.

    Attributes:
        recipe: the one that the long job would run.
        kill_step: after this optimizer step the last rank is killed, unless it has resumed.
        profile: the cluster profile's file, which is told what was measured; None: nowhere.
        layers: how many of the model's blocks are rehearsed; None: all.
    """

    recipe: Recipe
    kill_step: int
    profile: Path | None
    layers: int | None = None


LONGEST = "01:00:00"
"""Time limit of its jobs, where they would have a longer one: a short job is started sooner (backfill)."""


def short(recipe: Recipe) -> Recipe:
    """The recipe as it is rehearsed: same model, rows, precision and ranks; fewer steps and answers, less time."""
    steps = {"max_steps": STEPS, "save_steps": SAVE_STEP, "logging_steps": 1, "early_stop": None}
    train = recipe.train.model_copy(update=steps)
    score = recipe.score.model_copy(update={"rows": ROWS})
    limit = Limits(time=LONGEST).seconds
    jobs = {
        name: limits.model_copy(update={"time": LONGEST})
        for name in ("train", "score")
        if (limits := getattr(recipe.jobs, name)).seconds > limit
    }
    changed = {
        "name": f"rehearsal-{recipe.name}"[:64], "train": train, "score": score,
        "jobs": recipe.jobs.model_copy(update=jobs),
    }  # fmt: skip
    return parse(recipe.model_copy(update=changed).model_dump(mode="json"))


def shallow(recipe: Recipe, layers: int, runs: Path, *, write: bool = True) -> Recipe:
    """The recipe with the first ``layers`` blocks of its model, which are written beside the runs if need be.

    Args:
        write: False only looks whether they could be; the recipe then names its whole model directory as before.

    Raises:
        BadInput: the model is not there, or has not as many blocks.
        WorkFailed, NotFit: they cannot be written.
    """
    model = recipe.model
    if (made := model.make) is not None:
        if not 1 <= layers <= made.layers:
            raise BadInput(f"--layers {layers}: the recipe's model has {made.layers} (model.make.layers)")
        model = model.model_copy(update={"make": made.model_copy(update={"layers": layers})})
    else:
        from glmjobs.zero.first_layers import first_tensors, write_first_layers

        whole = Path(str(model.path)).resolve()
        if not whole.is_dir():
            raise BadInput(f"{whole}: no such model directory (model.path)")
        if not write:
            first_tensors(whole, layers)
            return recipe
        files = sorted((file.name, file.stat().st_size) for file in whole.iterdir() if file.is_file())
        key = hashlib.sha256(f"{whole} {files}".encode()).hexdigest()[:8]
        out = runs.resolve() / FOLDER / f"{whole.name}-{layers}-layers-{key}"
        write_first_layers(whole, out, layers)
        model = model.model_copy(update={"path": str(out)})
    return recipe.model_copy(update={"model": model})


def write(run: Path, recipe: Recipe, profile: Path | None, layers: int | None = None) -> None:
    """Make a run that is new a rehearsal of ``recipe``."""
    told = {"kill_step": KILL_STEP, "profile": str(profile) if profile else None, "layers": layers}
    write_json(run / FILE, {**told, "recipe": recipe.model_dump(mode="json")})


def read(run: Path) -> Rehearsal | None:
    """What a run rehearses; None: it is no rehearsal."""
    found = read_json(run / FILE)
    if not found:
        return None
    profile = Path(found["profile"]) if found["profile"] else None
    return Rehearsal(parse(found["recipe"]), int(found["kill_step"]), profile, found.get("layers"))
