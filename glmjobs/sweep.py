"""`python -m glmjobs.sweep --set train.learning_rate=1e-5,2e-5 --set train.epochs=1,2`: a run for every combination.

The runs are ordinary ones, ``NAME-1``, ``NAME-2`` …; `status`, `heal`, `cancel` and `compare` take the sweep's name for
all of them. All are checked before the first is made. Given again, the same command makes what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from glmjobs import submit
from glmjobs.cli import add_overrides, add_shape, positive, run_command
from glmjobs.recipe import loading
from glmjobs.recipe.schema import Recipe
from glmjobs.run import locate, sweeps
from glmjobs.run.jobs import CHAIN, check_name, make_shape
from glmjobs.run.read_state import read_state
from glmjobs.run.sweeps import Sweep
from hpc.batch import profile as profiles
from hpc.batch.profile import Profile
from hpc.core import hints
from hpc.core.config_files import read_yaml
from hpc.core.errors import BadInput

POLL_SECONDS = 1.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.sweep", description=(__doc__ or "").split("\n\n")[0])
    add_overrides(
        p, "a field with its values, field=v1,v2; each combination of all of them is a run; repeatable"
    )
    p.add_argument(
        "--from", dest="file", type=Path, metavar="FILE", help="YAML of the same: set: {field: [v1, v2]}"
    )
    p.add_argument("--recipe", metavar="FILE", default=loading.DEFAULT_RECIPE, help="default: %(default)s")
    p.add_argument("--cluster", metavar="FILE", help="cluster profile, as submit takes it")
    p.add_argument(
        "--executor", choices=("auto", "slurm", "local"), default="auto", help="as submit takes it"
    )
    p.add_argument("--name", metavar="NAME", help="of the sweep (default: the recipe's name and -sweep)")
    p.add_argument(
        "--at-once",
        type=positive,
        metavar="N",
        help="so many trainings at a time (default: as many as Slurm starts)",
    )
    p.add_argument(
        "--dry-run", action="store_true", help="check them, print what each would be; touch nothing"
    )
    p.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    add_shape(p)
    return p


def main(argv: list[str] | None = None) -> int:
    """Make the sweep's runs and submit them."""
    args = parser().parse_args(argv)
    items = [*(read_settings(args.file) if args.file else []), *args.overrides]
    settings = sweeps.combinations(items)
    if len(settings) < 2:
        raise BadInput("a sweep needs a field with several values: --set train.learning_rate=1e-5,2e-5")
    executor = submit.choose_executor(args.executor)
    if executor == "local" and args.at_once not in (None, 1):
        raise BadInput(f"--at-once {args.at_once}: on this machine runs follow one another")
    shape = make_shape(args.nodes, args.gpus, executor)
    plans = [load(args, executor, own) for own in settings]
    name = check_name(args.name or f"{plans[0][0].name}-sweep")
    sweep = Sweep(name, locate.parent(), settings)
    sweep.check_name()
    lanes = args.at_once if executor == "slurm" else None
    said: set[str] = set()
    ready: list[tuple[Recipe, Profile]] = []
    for place, (recipe, profile) in enumerate(plans):
        if lanes is not None:
            recipe = in_lane(recipe, f"{name}-lane-{place % lanes + 1}")
        with once(said):
            ready.append((submit.checked(recipe, profile, shape, CHAIN, executor), profile))
    if args.dry_run:
        show(sweep, {}, as_json=args.json)
        return 0
    with sweeps.lock(sweep.folder, name):
        sweep.keep()
        jobs = {}
        there = sum((sweep.folder / run_name / "run.yaml").is_file() for run_name in sweep.runs)
        if there and not args.json:
            print(f"{there} of {len(settings)} runs are there already", file=sys.stderr)
        for run_name, (recipe, profile) in zip(sweep.runs, ready, strict=True):
            jobs[run_name] = submit.start(
                sweep.folder / run_name, recipe, profile, shape, local=executor == "local"
            )
            if executor == "local":
                wait(sweep.folder / run_name, as_json=args.json)
        show(sweep, jobs, as_json=args.json)
    return 0


@contextlib.contextmanager
def once(said: set[str]) -> Iterator[None]:
    """What is noted within, said once, however many runs it is noted of. ``said``: the lines so far."""
    noted = io.StringIO()
    try:
        with contextlib.redirect_stderr(noted):
            yield
    finally:
        for line in noted.getvalue().splitlines():
            if line not in said:
                said.add(line)
                print(line, file=sys.stderr)


def read_settings(path: Path) -> list[str]:
    """The items of a sweep's file, as --set takes them.

    Raises:
        BadInput: it has another form.
    """
    raw = read_yaml(path, "sweep")
    fields = raw.get("set")
    if set(raw) != {"set"} or not isinstance(fields, dict) or not fields:
        others = ", ".join(str(key) for key in raw if key != "set")
        wrong = (
            f"unknown field {others}; "
            if others
            else ""
            if "set" in raw and not fields
            else "set is no mapping; "
        )
        raise BadInput(
            f"{path}: {wrong}a sweep is set: {{train.learning_rate: [1e-5, 2e-5], train.epochs: [1, 2]}}"
        )
    found = []
    for field, values in fields.items():
        if not isinstance(values, list) or not values:
            raise BadInput(f"{path}: set.{field}: a list of values")
        found.append(f"{field}={','.join(json.dumps(v) if not isinstance(v, str) else v for v in values)}")
    return found


def load(args: argparse.Namespace, executor: str, own: tuple[str, ...]) -> tuple[Recipe, Profile]:
    """Recipe and profile of one run."""
    recipe, profile = loading.load_both(args.recipe, args.cluster, list(own), executor)
    if executor == "slurm":
        profile, _ = profiles.from_shell(profile, os.environ)
    return recipe, profile


def in_lane(recipe: Recipe, lane: str) -> Recipe:
    """The recipe with its training in a lane, where one runs at a time."""
    jobs = recipe.jobs.model_copy(update={"lane": lane})
    return recipe.model_copy(update={"jobs": jobs})


def wait(path: Path, *, as_json: bool) -> None:
    """Until a run on this machine has ended, however it does."""

    def ended() -> bool:
        return read_state(locate.RunPath(path), ask_slurm=False).ended

    if ended():
        return
    if not as_json:
        print(f"{path.name} runs; the next one follows it", file=sys.stderr)
    try:
        while not ended():
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        print(f"{path.name} goes on; the same command goes on with the sweep", file=sys.stderr)
        raise


def show(sweep: Sweep, jobs: dict[str, dict[str, str]], *, as_json: bool) -> None:
    """The runs and their settings, and how to see them all."""
    if as_json:
        runs = [{"run": name, "set": list(own), "jobs": jobs.get(name)} for name, own in sweep.runs.items()]
        print(json.dumps({"sweep": sweep.name, "runs": runs}, ensure_ascii=False))
        return
    for name, own in sweep.runs.items():
        job = f"  train {jobs[name]['train']}" if "train" in jobs.get(name, {}) else ""
        print(f"{name}  {' '.join(own)}{job}")
    if jobs:
        watch, compare = (
            hints.command("glmjobs.status", sweep.name),
            hints.command("glmjobs.compare", sweep.name),
        )
        print(f"watch {watch}   side by side: {compare}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
