"""`python -m glmjobs.save RUN`: have a training save a checkpoint after its next step, as ``touch RUN/save`` does."""

from __future__ import annotations

import argparse
import sys

from glmjobs.cli import run_command
from glmjobs.run import sweeps
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from glmjobs.run.state import RUNNING
from hpc.core import hints
from hpc.core.errors import BadInput
from hpc.core.files import naming


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.save", description="Have a training save a checkpoint after its next step."
    )
    p.add_argument("run", help="run directory, or its name under runs/")
    return p


def main(argv: list[str] | None = None) -> int:
    """Ask for it; the training takes the file away when it has saved.

    Raises:
        BadInput: no training of the run is at work.
    """
    word = parser().parse_args(argv).run
    if several := sweeps.members(word):
        names = ", ".join(place.path.name for place in several[:5])
        raise BadInput(f"{word}: a sweep; name one of its runs, such as {names}")
    run = Run.open(word)
    train = read_state(run, ask_slurm=False).get("train")
    if train.state != RUNNING:
        raise BadInput(f"{run.path}: train is {train.state}: only a training that runs can save")
    with naming(run.save_request):
        run.save_request.touch()
    watch = hints.command("glmjobs.logs", run.path, "--stage", "train", "--follow")
    print(f"a checkpoint is saved after the next step; {watch} shows it", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
