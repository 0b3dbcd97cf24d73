"""`python -m glmjobs.track sync RUN…`: send runs to wandb, SwanLab or MLflow from a machine that has a network.

What was sent before, from here or while the run trained, is not sent again.
"""

from __future__ import annotations

import argparse
import sys

from glmjobs.cli import error_line, run_command
from glmjobs.recipe.schema import TRACKERS
from glmjobs.run import sweeps
from glmjobs.run.directory import Run
from glmjobs.run.read_state import read_state
from glmjobs.tracking import live
from glmjobs.tracking.sending import Sent, sync
from hpc.core import hints
from hpc.core.errors import BadInput, HpcError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="python -m glmjobs.track", description=(__doc__ or "").split("\n\n")[0])
    p.add_argument("what", choices=("sync", "follow"), help="sync; follow is called by the train stage")
    p.add_argument("runs", nargs="+", metavar="RUN", help="run directory, its name under runs/, or a sweep's")
    p.add_argument(
        "--to", action="append", choices=TRACKERS, metavar="TRACKER",
        help=f"{', '.join(TRACKERS)}; default: those that the run's recipe names (track)",
    )  # fmt: skip
    return p


def main(argv: list[str] | None = None) -> int:
    """Send; the exit code is that of the first run that could not be sent."""
    args = parser().parse_intermixed_args(argv)  # runs may stand after --to
    if args.what == "follow":
        return live.follow(Run.open(args.runs[0]), args.to[0])
    code = 0
    for place in sweeps.expand(args.runs):
        run = Run.open(place.path)
        trackers = args.to or run.recipe.track
        if not trackers:
            raise BadInput(
                f"{run.path}: its recipe names no tracker (track); name one: "
                + hints.command("glmjobs.track", "sync", run.path, "--to", TRACKERS[0])
            )
        ended = read_state(run, ask_slurm=False).ended
        for tracker in dict.fromkeys(trackers):
            try:
                sent = sync(run, tracker, ended=ended)
            except HpcError as error:
                print(f"error: {run.name}: {error_line(error)}", file=sys.stderr)
                code = code or error.exit_code
                continue
            print(f"{run.name}  {tracker}: {words(sent)}: {sent.where}", flush=True)
    return code


def words(sent: Sent) -> str:
    """What was sent."""
    steps = f"{sent.steps:,} steps, up to step {sent.up_to:,}" if sent.steps else ""
    figures = f"{sent.figures} scores and costs" if sent.figures else ""
    return f"{' and '.join(filter(None, (steps, figures)))} sent" if steps or figures else "nothing new"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
