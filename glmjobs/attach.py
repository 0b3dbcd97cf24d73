"""`python -m glmjobs.attach RUN --exec`, what the scripts in ``sbatch/`` end in: their job becomes a job of a run.

For the train job it makes the run directory and submits the jobs that follow, each waiting for the one before, exactly
those that ``glmjobs.submit`` would have submitted. A requeued job finds all that done and goes straight on. Where a
node may not submit, training runs, and the rest is said to be missing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from glmjobs import submit
from glmjobs.cli import add_overrides, run_command
from glmjobs.recipe.loading import load_both
from glmjobs.run import kept_code, submit_checks
from glmjobs.run.directory import Run
from glmjobs.run.jobs import CHAIN, chain_of, make_shape
from glmjobs.run.state import STAGES
from glmjobs.tracking.check import check as check_trackers
from hpc.batch import script
from hpc.batch.profile import Profile
from hpc.chain import submission
from hpc.core import config_files
from hpc.core.errors import BadInput, HpcError
from hpc.slurm import client as slurm


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.attach", description="Make this Slurm job a job of a run."
    )
    p.add_argument("run", type=Path, help="run directory; made for the train job where it is not there")
    p.add_argument("--stage", choices=CHAIN, default="train")
    p.add_argument("--recipe", metavar="FILE", default="configs/chatglm6b.yaml")
    p.add_argument("--cluster", metavar="FILE")
    p.add_argument("--exec", action="store_true", help="then run the stage, in place of this process")
    add_overrides(p)
    return p


def main(argv: list[str] | None = None) -> int:
    """Adopt the job named by SLURM_JOB_ID."""
    args = parser().parse_args(argv)
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise BadInput(
            "glmjobs.attach: not inside a Slurm job (no SLURM_JOB_ID); submit with sbatch sbatch/….sh"
        )
    shown = own_job(args.stage, job)
    if args.stage == "train" and not (args.run / "run.yaml").is_file():
        run = make_run(args, shown)
    else:
        run = Run.open(args.run.absolute())
    for stage in STAGES:
        run.jobs(stage).mkdir(parents=True, exist_ok=True)
    job = os.environ.get("SLURM_ARRAY_JOB_ID") or job
    if submission.current_jobs(run.path).get(args.stage) != job:
        submission.attach(run.path, args.stage, job)
    if args.stage == "train":
        submit_rest(run, job)
    if args.exec:
        run_stage(run, args.stage)
    return 0


def run_stage(run: Run, stage: str) -> NoReturn:
    """Become the command that submit's script ends in, so that Slurm's signals reach :mod:`hpc.runtime.attempt`."""
    chain = chain_of(run, (stage,))
    os.environ.update(chain.variables)
    if chain.project is not None:
        os.chdir(chain.project)  # where Python looks first
        os.environ["PYTHONPATH"] = ":".join(filter(None, (str(chain.project), os.environ.get("PYTHONPATH"))))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execvp("bash", ["bash", "-c", f"set -euo pipefail\n{script.command(chain.jobs[0], chain)}"])


def own_job(stage: str, job: str) -> dict[str, str]:
    """This job as Slurm shows it; empty where it does not answer.

    The environment may be that of another job: sbatch hands on what the shell of an allocation, or a job that submits,
    has of itself. What is the other's is dropped: the array, and how often it was requeued.
    """
    if stage != "score":
        for name in [n for n in os.environ if n.startswith("SLURM_ARRAY_")]:
            del os.environ[name]
    try:
        shown = slurm.show(job) or {}
    except HpcError:
        return {}
    if shown.get("Restarts", "").isdigit():
        os.environ["SLURM_RESTART_COUNT"] = shown["Restarts"]
    return shown


def make_run(args: argparse.Namespace, shown: dict[str, str]) -> Run:
    """The run directory, with what this job was given by hand in its profile, for the jobs that follow."""
    recipe, profile = load_both(args.recipe, args.cluster, args.overrides, "slurm")
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    gpus = int(os.environ.get("SLURM_NTASKS_PER_NODE", "8").split("(")[0])
    shape = make_shape(nodes, gpus, "slurm")
    profile = own_place(profile, shown)
    recipe = submit_checks.check(recipe, profile, shape, CHAIN, "slurm")
    check_trackers(recipe, profile, os.environ)
    recipe = submit.decide(recipe, profile, shape)
    run = Run.create(args.run, recipe, profile, shape)
    kept_code.keep(run.path)
    return run


PLACE = {
    "partition": "Partition", "account": "Account", "qos": "QOS", "reservation": "Reservation",
    "constraint": "Features", "exclude": "ExcNodeList",
}  # fmt: skip
"""Field of the profile → what ``scontrol show job`` calls it (``SLURM_JOB_PARTITION`` … where that is silent)."""

OPTIONS = {
    "licenses": "Licenses", "mail-user": "MailUser", "mail-type": "MailType", "nice": "Nice", "wckey": "WCKey",
}  # fmt: skip
"""The same for sbatch's options that are no fields."""

NOTHING = ("", "0", "(null)", "N/A", "NONE", "*")


def own_place(profile: Profile, shown: Mapping[str, str] | None = None) -> Profile:
    """The profile with what this job was given to sbatch with by hand, as Slurm shows it (else the environment).

    A value that a profile cannot hold is left out, and said.
    """
    known = shown or {name: os.environ.get(f"SLURM_JOB_{field.upper()}", "") for field, name in PLACE.items()}
    for field, name in PLACE.items():
        if (value := known.get(name, "")) not in NOTHING:
            profile = _with(profile, field, value)
    for option, name in OPTIONS.items():
        if (value := known.get(name, "")) not in NOTHING and not (
            option == "mail-user" and "MailType" not in known
        ):
            profile = _with(profile, "sbatch", {**profile.sbatch, option: value})
    return profile


def _with(profile: Profile, field: str, value: object) -> Profile:
    try:
        return config_files.validate(
            Profile, {**profile.model_dump(mode="json"), field: value}, source="this job"
        )
    except BadInput as error:
        print(f"note: not handed on to the jobs that follow: {error}", file=sys.stderr)
        return profile


def submit_rest(run: Run, job: str) -> None:
    """Submit the jobs after train that were not submitted yet. Where that fails, training goes on all the same."""
    known = {"train": job, **submission.current_jobs(run.path)}
    missing = tuple(stage for stage in CHAIN if stage not in known)
    if not missing:
        return
    try:
        ids = submission.submit(chain_of(run, missing), known)
    except HpcError as error:
        heal = shlex.join([sys.executable, "-m", "glmjobs.heal", str(run.path)])
        said = f"{', '.join(missing)} could not be submitted from {os.uname().nodename} ({error})"
        where = shlex.quote(str(Path.cwd()))
        print(f"note: training runs, but {said}; on a login node: cd {where} && {heal}", file=sys.stderr)
        return
    print(
        f"run {run.path}: train {job}, then {', '.join(f'{s} {i}' for s, i in ids.items())}", file=sys.stderr
    )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
