"""`python -m glmjobs.doctor`: :mod:`hpc.doctor` with this toolkit's variables, remedies, and what a training takes."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from glmjobs.cli import add_overrides, add_shape, run_command
from glmjobs.run.remedies import REMEDIES
from hpc.batch.profile import Profile
from hpc.core.errors import BadInput
from hpc.core.room import there
from hpc.doctor import __main__ as doctor
from hpc.doctor.checklist import Row, State
from hpc.health.writing import MOST_BYTES, write_speed

if TYPE_CHECKING:
    from glmjobs.planning.demands import Demand
    from glmjobs.recipe.schema import Recipe

AT_START = "how much that is, preflight looks when the job starts"


def words(p: argparse.ArgumentParser) -> None:
    """The options about a training."""
    p.add_argument(
        "--recipe", metavar="FILE", help="also hold what its training takes against this machine and profile"
    )
    add_shape(p)
    add_overrides(p, "with --recipe: override a field of it, or of the profile as cluster.field=value")


def training(args: argparse.Namespace, profile: Profile, runs: Path) -> tuple[Profile, list[Row]]:
    """A row for disk, host memory, GPU memory and saves each (:mod:`glmjobs.planning.demands`).

    Also a note where the model or the data is not there, which submit refuses: the figures are of published sizes then.

    Raises:
        BadInput: the recipe is wrong, or the model's sizes cannot be read.
    """
    if args.recipe is None:
        if args.overrides:
            raise BadInput("--set goes with --recipe FILE")
        return profile, []
    from glmjobs.planning import demands
    from glmjobs.planning.estimate import decided
    from glmjobs.recipe import loading
    from glmjobs.run.jobs import make_shape
    from glmjobs.run.submit_checks import check_warning

    executor = "slurm" if shutil.which("sbatch") else "local"
    recipe, profile = loading.override(
        loading.load(loading.find_config(args.recipe)), profile, args.overrides
    )
    shape = make_shape(args.nodes, args.gpus, executor)
    if executor == "slurm":
        check_warning(recipe.jobs)
    recipe, _ = decided(recipe, profile, shape)
    title = f"Training {recipe.name} on {shape.nodes} × {shape.gpus} GPUs"
    found = [Row(title, what, "warn", why, "to be there before submit") for what, why in _missing(recipe)]
    found += [
        Row(title, d.what, _state(d), d.found, d.needed, d.remedy or ("" if d.known else AT_START))
        for d in demands.held(recipe, profile, shape, runs, limited=executor == "slurm")
    ]
    if executor == "slurm" and demands.measured_rate(profile, shape) is None:
        size = demands.demands_of(recipe, shape).checkpoint
        how = "this machine writes" if shape.nodes == 1 else f"{shape.nodes} nodes write if each does as this machine"
        try:
            rate = shape.nodes * write_speed(there(runs), shape.gpus, MOST_BYTES)
        except OSError:
            return profile, found  # a row of its own says that nothing can be written
        d = demands.save(size, rate, recipe, shape, how)
        # Another machine than those that save: preflight measures it there, and demands it.
        found.append(Row(title, d.what, "ok" if d.holds else "warn", d.found, d.needed, d.remedy))
    return profile, found


def _missing(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What submit says of a model or data that are not there, or not what the recipe says."""
    from glmjobs.run.submit_checks import check_model, check_there

    checks: list[tuple[str, Callable[[], object]]] = []
    if recipe.model.path is not None:
        checks.append(("model", partial(check_model, Path(recipe.model.path), recipe.model.family)))
    for one in recipe.data.apart():
        if one.path is not None:
            checks.append(("data", partial(check_there, Path(one.path))))
    for what, check in checks:
        try:
            check()
        except (BadInput, OSError) as error:
            yield what, str(error)


def _state(d: Demand) -> State:
    if not d.holds:
        return "bad"
    return "warn" if d.remedy or not d.known else "ok"


SETTING = doctor.Setting(
    prog="python -m glmjobs.doctor", cluster="GLMJOBS_CLUSTER", runs="GLMJOBS_RUNS", remedies=REMEDIES,
    words=words, more=training,
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    return doctor.parser(SETTING)


def main(argv: list[str] | None = None) -> int:
    """0 fit, 2 bad input, 3 not fit."""
    return doctor.main(argv, SETTING)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
