"""`python -m glmjobs.rehearse --nodes 1 --gpus 8`: the real shapes for a few minutes, before the long job.

The recipe's own model, rows and ranks go through the whole chain: 20 steps with a save at the tenth, the last rank
killed after the thirteenth, the training going on from the save, consolidation, a few answers. What was measured stands
in a table beside what the long job asks for, and in the cluster profile, where plan finds it.
"""

from __future__ import annotations

import argparse
import sys

from glmjobs import submit
from glmjobs.cli import run_command
from glmjobs.run.directory import Run


def parser() -> argparse.ArgumentParser:
    """The command line: submit's, and --result."""
    p = submit.parser()
    p.prog = "python -m glmjobs.rehearse"
    p.description = (
        "The real job for a few minutes: 20 steps, a save, a killed rank, and all stages; what will hold."
    )
    p.epilog = "Exit codes: 0 all holds, 1 the work failed, 2 bad input, 3 something will not hold."
    p.add_argument("--result", metavar="RUN", help="show again what a rehearsal that is done has found")
    return p


def main(argv: list[str] | None = None) -> int:
    """Rehearse, and show what was found."""
    words = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(words)
    if args.result is not None:
        return submit.rehearsed(Run.open(args.result), as_json=args.json)
    return submit.main(["--rehearse", *words])


if __name__ == "__main__":
    raise SystemExit(run_command(main))
