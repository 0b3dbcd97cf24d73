"""What every command shares: errors become one line and an exit code, Ctrl-C ends quietly."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from glmjobs.errors import GlmJobsError
from hpc.errors import HpcError


def run_command(main: Callable[[list[str] | None], int], argv: list[str] | None = None) -> int:
    """Call ``main`` and return the process's exit code.

    0 done, 1 the work failed, 2 bad input, 3 this machine or cluster is not fit for it; 130 after Ctrl-C.
    """
    try:
        return main(argv)
    except (HpcError, GlmJobsError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The words --nodes and --gpus."""
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes (default 1)")
    parser.add_argument(
        "--gpus", type=int, default=8, metavar="N", help="GPUs on each node, one rank each (default 8)"
    )


def add_overrides(parser: argparse.ArgumentParser, help: str | None = None) -> None:
    """The word --set, any number of times, as ``overrides``."""
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], dest="overrides", help=help)


def one_line(error: BaseException) -> str:
    """An error's text with its line breaks shown as blanks."""
    return " ".join(str(error).split())
