"""`python -m glmjobs.submit --nodes 1 --gpus 8`: from a recipe to a running chain, in one command.

What it finds wrong, it says before anything is queued or written: a recipe's mistakes, a model or data that are
not there or cannot be used (exit 2), a machine without the GPUs (exit 3).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glmjobs.cli import add_overrides, add_shape, error_line, run_command
from glmjobs.recipe import loading as recipes
from glmjobs.recipe.loading import load_both
from glmjobs.recipe.schema import Recipe
from glmjobs.run import kept_code, locate, rehearsal, sharing, sweeps
from glmjobs.run.directory import Run, Shape, free_name, name_taken
from glmjobs.run.jobs import CHAIN, asked, chain_of, make_chain
from glmjobs.run.rehearsal import Rehearsal
from hpc.batch import profile as profiles
from hpc.batch.jobs import Chain
from hpc.batch.profile import Profile
from hpc.batch.script import render
from hpc.chain import submission
from hpc.chain.repair import repair
from hpc.core import hints
from hpc.core.errors import BadInput, HpcError

NEVER_AGAIN = (
    "no job is queued again here (cluster.requeue): a training that its time limit ends waits for heal; "
    f"{hints.setting('jobs.train.attempts', '3')} has three attempts in the queue from the start"
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.submit",
        description="Fine-tune a GLM-family model: preflight, train, consolidate, score, report, as one chain of jobs.",
        epilog="Exit codes: 0 done, 1 the work failed, 2 bad input, 3 this machine or cluster is not fit for it.",
    )
    add_shape(p)
    p.add_argument("--recipe", metavar="FILE", default=recipes.DEFAULT_RECIPE, help="default: %(default)s")
    p.add_argument(
        "--cluster", metavar="FILE", help="cluster profile; default: $GLMJOBS_CLUSTER, else the mission's"
    )
    p.add_argument(
        "--executor", choices=("auto", "slurm", "local"), default="auto", help="auto: Slurm where sbatch is"
    )
    add_overrides(p, "override a field of the recipe, or of the profile as cluster.field=value; repeatable")
    p.add_argument(
        "--name", metavar="NAME", help="run directory under runs/ (default: the recipe's name and a number)"
    )
    p.add_argument("--stages", metavar="A,B", help="only these of train, consolidate, score, report")
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="print each script exactly as it would go out, and what would be refused; touch nothing",
    )
    p.add_argument(
        "--rehearse",
        action="store_true",
        help="a few steps, a killed rank and all stages first, to see what will hold: glmjobs.rehearse",
    )
    p.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help="with --rehearse: the model's first N layers alone, where all are too many for the GPUs at hand",
    )
    p.add_argument("--follow", action="store_true", help="stay and show progress until the chain ends")
    p.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    return p


def main(argv: list[str] | None = None) -> int:
    """Submit; with --follow, the exit code is the chain's."""
    args = parser().parse_args(argv)
    executor = choose_executor(args.executor)
    recipe, profile = load_both(args.recipe, args.cluster, args.overrides, executor)
    if executor == "slurm":
        profile, notes = profiles.from_shell(profile, os.environ)
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    shape, stages = asked(args, executor)
    whole = recipe
    if args.rehearse:
        recipe = rehearsal.short(whole)
    parent = locate.parent()
    name = args.name if args.name is not None else free_name(recipe.name, parent)
    if sweeps.record(parent, name).is_file():
        raise BadInput(f"--name {name}: a sweep has this name; take another")
    local = executor == "local"

    def check() -> Recipe:
        """The recipe as it will run."""
        if args.layers is None:
            return checked(recipe, profile, shape, stages, executor)
        few = rehearsal.shallow(recipe, args.layers, parent, write=not args.dry_run)
        if args.dry_run and few.model.path is not None:  # not written, so their sizes cannot be read
            return findable(few, profile, shape, stages, executor)
        return checked(few, profile, shape, stages, executor)

    if args.dry_run:
        place = kept_code.place(parent)
        chain = make_chain(parent / name, "KEY", recipe, profile, shape, stages, local=local, code=place)
        dry_run(chain, args.json)
        return refusal(check, parent / name)
    recipe = check()
    run = create(parent, name, recipe, profile, shape, fixed=args.name is not None)
    if args.rehearse:
        told = recipes.profile_file(args.cluster, executor) if executor == "slurm" else None
        rehearsal.write(run.path, whole, told, args.layers)
    kept_code.keep(run.path)
    ids = submission.submit(chain_of(run, stages, local=local))
    announce(run, ids, as_json=args.json and not (args.follow or args.rehearse))
    if args.follow or args.rehearse:
        from glmjobs.terminal.follow import follow

        code = follow(run, as_json=args.json and not args.rehearse)
        return code or (rehearsed(run, as_json=args.json) if args.rehearse else 0)
    return 0


def checked(recipe: Recipe, profile: Profile, shape: Shape, stages: tuple[str, ...], executor: str) -> Recipe:
    """The recipe as it will run; what plan has to remark is said.

    Raises:
        BadInput: something that it asks for is not there, or does not fit.
        NotFit: this cluster cannot do it.
    """
    from glmjobs.planning import demands

    recipe = findable(recipe, profile, shape, stages, executor)
    recipe = decide(recipe, profile, shape)
    if executor == "slurm" and not profile.requeue and recipe.jobs.train.attempts == 1:
        print(f"note: {NEVER_AGAIN}", file=sys.stderr)
    if executor == "slurm":
        jobs = make_chain(locate.parent(), "", recipe, profile, shape, stages).jobs
        if short := submission.short_of_room(jobs, profile):
            print(f"note: {short}", file=sys.stderr)
    for remark in demands.check(recipe, profile, shape, locate.parent(), limited=executor == "slurm"):
        print(f"note: {remark}", file=sys.stderr)
    return recipe


def findable(
    recipe: Recipe, profile: Profile, shape: Shape, stages: tuple[str, ...], executor: str
) -> Recipe:
    """The recipe with its paths made absolute, where what it names is there; errors as for :func:`checked`."""
    from glmjobs.run import submit_checks
    from glmjobs.tracking.check import check as check_trackers

    recipe = submit_checks.check(recipe, profile, shape, stages, executor)
    check_trackers(recipe, profile, os.environ)
    return recipe


def decide(recipe: Recipe, profile: Profile, shape: Shape) -> Recipe:
    """The recipe with what it leaves to plan decided, and said (:func:`glmjobs.planning.estimate.decided`)."""
    from glmjobs.planning.estimate import decided

    recipe, why = decided(recipe, profile, shape)
    if why:
        print(f"note: {why}", file=sys.stderr)
    return recipe


def refusal(check: Callable[[], object], run: Path) -> int:
    """What submit would refuse, said by a dry run; the exit code that submit would then end with, else 0.

    Args:
        check: all that is checked before the run directory is made.
        run: that directory.
    """
    try:
        check()
        if run.exists():
            raise name_taken(run)
    except HpcError as error:
        print(f"note: as it is now, this would be refused: {error_line(error)}", file=sys.stderr)
        return error.exit_code
    return 0


def rehearsed(run: Run, *, as_json: bool) -> int:
    """What a rehearsal that is done has shown, for people and for the cluster profile; 3 where something won't hold.

    Raises:
        BadInput: the run is no rehearsal, or not done.
    """
    from glmjobs.terminal import rehearsed as shown

    return shown.conclude(run, as_json=as_json)


def choose_executor(wanted: str) -> str:
    """``auto`` takes Slurm where sbatch is found."""
    if wanted != "auto":
        return wanted
    return "slurm" if shutil.which("sbatch") else "local"


def create(parent: Path, name: str, recipe: Recipe, profile: Profile, shape: Shape, *, fixed: bool) -> Run:
    """Make the run directory; a name that was only proposed moves on when someone else has just taken it."""
    while True:
        try:
            return Run.create(parent / name, recipe, profile, shape)
        except BadInput:
            if fixed or not (parent / name).exists():
                raise
            name = free_name(recipe.name, parent)


def start(
    path: Path,
    recipe: Recipe,
    profile: Profile,
    shape: Shape,
    *,
    local: bool,
    rehearses: Rehearsal | None = None,
) -> dict[str, str]:
    """Make one run and submit it; where an earlier command was cut off, do what it left undone; stage → job.

    Args:
        rehearses: the run is a rehearsal, and of what.

    Raises:
        BadInput, NotFit, WorkFailed: as submitting and healing a chain.
    """
    there = (path / "run.yaml").is_file()
    run = Run.open(path) if there else Run.create(path, recipe, profile, shape)
    if rehearses is not None and rehearsal.read(path) is None:
        rehearsal.write(path, rehearses.recipe, rehearses.profile)
    if kept_code.kept(path) is None:
        kept_code.keep(path)
    if not there:
        return submission.submit(chain_of(run, local=local))
    if not set(CHAIN) <= set(submission.current_jobs(path)):
        repair(chain_of(run, local=local))
    return submission.current_jobs(path)


def dry_run(chain: Chain, as_json: bool) -> None:
    """Print what would be submitted."""
    ids = {job.stage: submission.to_be_waited_for(f"<{job.stage}'s job id>", job) for job in chain.jobs}
    shown = {
        job.stage: (
            submission.options(chain, job, [ids[s] for s in job.after if s in ids]),
            render(job, chain),
        )
        for job in chain.jobs
    }
    if as_json:
        document: list[dict[str, Any]] = [
            {"stage": stage, "options": options, "script": script}
            for stage, (options, script) in shown.items()
        ]
        print(json.dumps({"dry_run": True, "jobs": document}, ensure_ascii=False, indent=1))
        return
    for stage, (options, script) in shown.items():
        print(f"# ---- {stage}: sbatch {' '.join(options)} script.sh", file=sys.stderr)
        print(script)


def announce(run: Run, ids: dict[str, str], *, as_json: bool) -> None:
    """Where the run is and which jobs it has."""
    if as_json:
        print(json.dumps({"run": run.name, "path": str(run.path), "jobs": ids}, ensure_ascii=False))
        return
    print(f"run   {run.path}", file=sys.stderr)
    gid = sharing.group_id(run.recipe.jobs.share, run.path.parent)
    if gid is not None and (closed := sharing.closed_above(run.path, gid)):
        print(
            f"note  {closed} is closed to the run's group: its members cannot get to the run", file=sys.stderr
        )
    print(f"jobs  {'  '.join(f'{stage} {job}' for stage, job in ids.items())}", file=sys.stderr)
    name = run.path if run.path.parent != Path("runs").absolute() else run.name
    watch, end = hints.command("glmjobs.status", name), hints.command("glmjobs.cancel", name)
    print(f"watch {watch}   end it: {end}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
