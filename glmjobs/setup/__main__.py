"""`python -m glmjobs.setup`: on a login node, from nothing to a scored run; see :mod:`glmjobs.setup`.

Interrupted anywhere, the same command goes on where it stopped. Standard library only until there is an environment.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from pathlib import Path

from glmjobs.cli import add_overrides, error_line, run_command
from glmjobs.setup.asking import FILE, Answers
from glmjobs.setup.into_environment import IntoEnvironment, enter, packages
from glmjobs.setup.stepwise import AGAIN, go, tell
from hpc.core.errors import BadInput, HpcError, NotFit
from hpc.core.files import exclusive
from hpc.core.resources import LIGHT

ANSWERS = (
    "environment", "stack", "wheelhouse", "recipe", "cluster", "partition", "account", "gpu_memory", "hub", "model",
    "data", "nodes", "gpus", "setting", "overrides", "name", "rehearse",
)  # fmt: skip
"""Options that hold for the next call, too."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.setup",
        description="On a login node, from nothing to a scored run. What is not said is asked; what is there is used "
        "as it is; interrupted anywhere, the same command goes on.",
        epilog="Exit codes: 0 done, 1 the work failed, 2 bad input, 3 this machine or cluster is not fit for it.",
    )  # fmt: skip
    p.add_argument("--yes", action="store_true", help="ask nothing: take what is proposed")
    p.add_argument(
        "--dry-run", action="store_true", help="say what is there and what would be done; touch nothing"
    )
    p.add_argument("--follow", action="store_true", help="stay with the run until it has ended")
    p.add_argument("--submit", action=argparse.BooleanOptionalAction, help="the run, when all else is done")
    p.add_argument("--rehearse", action=argparse.BooleanOptionalAction, help="a rehearsal first")
    p.add_argument("--skip-doctor", action="store_true", help="go on whatever the doctor would say")
    where = p.add_argument_group("where")
    where.add_argument("--environment", metavar="DIR", help="Python environment, there or to be made")
    where.add_argument(
        "--stack", metavar="S", help="its packages: a name in configs/stacks (default: for this Python)"
    )
    where.add_argument("--wheelhouse", metavar="DIR", help="install them from here, without a network")
    where.add_argument(
        "--cluster",
        metavar="FILE",
        help="cluster profile, there or to be drafted (default: $GLMJOBS_CLUSTER, cluster.yaml)",
    )
    where.add_argument("--partition", metavar="NAME", help="for the draft")
    where.add_argument("--account", metavar="NAME", help="for the draft; none: without one")
    where.add_argument("--gpu-memory", metavar="GB", help="of one GPU, for the draft")
    what = p.add_argument_group("what")
    what.add_argument("--recipe", metavar="FILE", help="what to train, and how")
    what.add_argument(
        "--model", metavar="SOURCE", help="base model: a hub id, or a directory that is used where it is"
    )
    what.add_argument(
        "--data", metavar="SOURCE", help="data: a hub id, or a file or directory that is used where it is"
    )
    what.add_argument(
        "--hub", metavar="URL", help="a mirror to fetch from (default: $HF_ENDPOINT, huggingface.co)"
    )
    what.add_argument("--nodes", metavar="N", help="nodes")
    what.add_argument("--gpus", metavar="N", help="GPUs on each node, one rank each")
    what.add_argument(
        "--setting", choices=("proposed", "recipe"), help="plan's proposal, or the recipe as it is"
    )
    add_overrides(
        what, "override a field of the recipe, or of the profile as cluster.field=value; repeatable"
    )
    what.add_argument("--name", metavar="NAME", help="run directory under runs/")
    return p


def main(argv: list[str] | None = None) -> int:
    """Go through the steps; at the end, show how the run is doing."""
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(words)
    options = {name: getattr(args, name) for name in ANSWERS}
    answers = Answers(
        Path(FILE), options, {"submit": args.submit}, yes=args.yes or args.dry_run, keeps=not args.dry_run
    )
    try:
        with contextlib.ExitStack() as holding:
            if not args.dry_run:
                alone(holding)
            return steps(args, answers, words)
    except BadInput:
        raise
    except HpcError as error:
        print(f"error: {error_line(error)}; mend that, and run the same command again", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"\ninterrupted; {AGAIN}", file=sys.stderr)
        return 130


def alone(holding: contextlib.ExitStack) -> None:
    """Hold this directory against another setup.

    Raises:
        BadInput: one is at work here, or nothing can be written here.
    """
    try:
        held = holding.enter_context(exclusive(Path(f".{FILE}.lock")))
    except OSError as error:
        raise BadInput(
            f"{Path.cwd()}: cannot be written in ({error.strerror}): start setup in a directory of yours"
        ) from None
    if not held:
        raise BadInput(f"{Path.cwd()}: another setup is at work here")


def steps(args: argparse.Namespace, answers: Answers, words: list[str]) -> int:
    """All of them, in order; the exit code.

    Raises:
        HpcError: one that cannot be done.
    """
    if shutil.which("sbatch") is None:
        raise NotFit("no Slurm here (sbatch is not on PATH): run this on a login node")
    environment = IntoEnvironment(answers)
    go([environment], answers, dry=args.dry_run)
    if environment.whole:
        enter(environment.place, words)
    elif any(name not in packages(Path(sys.prefix)) for name in LIGHT):  # a dry run
        tell("", "the other steps can be looked at when it is there")
        return 0
    from glmjobs.setup import chain_steps, input_steps, setting_step, site_steps
    from glmjobs.setup.settled import Settled

    site_steps.check_options(answers.options)
    settled = Settled(answers, dry=args.dry_run)
    chains = chain_steps.Chains(settled)
    run = chain_steps.Submit(settled, chains)
    try:
        go(
            [
                site_steps.ChooseRecipe(settled),
                site_steps.DraftProfile(settled),
                *([] if args.skip_doctor else [site_steps.AskDoctor(settled)]),
                input_steps.FetchModel(settled),
                input_steps.FetchData(settled),
                setting_step.ChooseSetting(settled),
                chain_steps.ShowScripts(settled, chains),
                chain_steps.Rehearse(settled, chains),
                run,
            ],
            answers,
            dry=args.dry_run,
        )
    except chain_steps.NotNow as later:
        tell(run.title, str(later))
        return 0
    return 0 if args.dry_run else chain_steps.how_it_is(run.path, stay=args.follow)


if __name__ == "__main__":
    raise SystemExit(run_command(main))
