"""`python -m glmjobs.attach RUN --exec`, what the scripts in ``sbatch/`` end in: their job becomes a job of a run.

For the train job it makes the run directory and submits the jobs that follow, each waiting for the one before, exactly
those that ``glmjobs.submit`` would have submitted. A requeued job finds all that done and goes straight on.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from glmjobs.cli import add_overrides, run_command
from glmjobs.recipe.loading import load_both
from glmjobs.run import submit_checks
from glmjobs.run.directory import Run
from glmjobs.run.jobs import CHAIN, chain_of, make_shape
from glmjobs.run.state import STAGES
from hpc.batch import script
from hpc.batch.profile import Profile
from hpc.chain import submission
from hpc.core.errors import BadInput


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
    if args.stage == "train" and not (args.run / "run.yaml").is_file():
        run = make_run(args)
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
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execvp("bash", ["bash", "-c", f"set -euo pipefail\n{script.command(chain.jobs[0], chain)}"])


def make_run(args: argparse.Namespace) -> Run:
    """The run directory, with this job's own partition and account in its profile, for the jobs that follow."""
    recipe, profile = load_both(args.recipe, args.cluster, args.overrides, "slurm")
    nodes = int(os.environ.get("SLURM_NNODES", "1"))
    gpus = int(os.environ.get("SLURM_NTASKS_PER_NODE", "8").split("(")[0])
    shape = make_shape(nodes, gpus, "slurm")
    recipe = submit_checks.check(recipe, own_place(profile), shape, CHAIN, "slurm")
    return Run.create(args.run, recipe, own_place(profile), shape)


def own_place(profile: Profile) -> Profile:
    """The profile with the partition and account that this job was given to sbatch with."""
    found = {
        "partition": os.environ.get("SLURM_JOB_PARTITION"),
        "account": os.environ.get("SLURM_JOB_ACCOUNT"),
    }
    return profile.model_copy(update={k: v for k, v in found.items() if v and v != "(null)"})


def submit_rest(run: Run, job: str) -> None:
    """Submit the jobs after train that were not submitted yet."""
    known = {"train": job, **submission.current_jobs(run.path)}
    missing = tuple(stage for stage in CHAIN if stage not in known)
    if not missing:
        return
    ids = submission.submit(chain_of(run, missing), known)
    print(
        f"run {run.path}: train {job}, then {', '.join(f'{s} {i}' for s, i in ids.items())}", file=sys.stderr
    )


if __name__ == "__main__":
    raise SystemExit(run_command(main))
