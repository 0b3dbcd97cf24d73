"""What every command shares: their list, errors become one line and an exit code, Ctrl-C ends quietly."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from hpc.core.errors import HpcError

COMMANDS = {
    "submit": "make a run and start its chain of jobs",
    "plan": "memory, disk and hours of a training, before it costs any",
    "status": "how a run is doing: stages, step, loss, jobs",
    "runs": "all runs: state, accuracy, GPU-hours",
    "logs": "what a run's stages wrote",
    "cancel": "end a run's jobs",
    "heal": "let a run that failed or was cut off go on",
    "fetch": "put a model or data set where every node sees it",
    "prepare": "read, check and split a data file",
    "consolidate": "a ZeRO checkpoint becomes a model directory",
    "reshard": "resume a checkpoint on another number of GPUs",
    "score": "answers and accuracy of a model, or of a run's two models",
    "report": "a run's report, as HTML, Markdown and JSON",
    "chat": "talk to a model directory",
    "convert": "THUDM/GLM's model-parallel checkpoints to a model directory and back",
    "template": "recipes, cluster profiles and batch scripts to start from",
    "completion": "what the Tab key offers, for bash or zsh",
    "doctor": "is this machine, this cluster, this environment fit",
    "preflight": "called by the train job: check the nodes of a run",
    "train": "called by the train job: the train stage of a run, in this process",
    "attach": "called by the scripts in sbatch/: make this Slurm job a job of a run",
}
"""The commands, in the order in which they are listed: modules of this package, each with ``parser`` and ``main``."""

NOT_OURS = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EISDIR,
    errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EMFILE, errno.ENFILE,
})  # fmt: skip
"""Errors of the system that are a state of its disks or limits, not a fault of the program."""


def run_command(main: Callable[[list[str] | None], int], argv: list[str] | None = None) -> int:
    """Call ``main`` and return the process's exit code.

    0 done, 1 the work failed, 2 bad input, 3 this machine or cluster is not fit for it; 130 after Ctrl-C.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: `>&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the process ends
    try:
        return main(argv)
    except HpcError as error:
        print(f"error: {error_line(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UnicodeEncodeError as error:  # a path or an argument with bytes that are no text
        print(f"error: {error.object[:80]!r}: not UTF-8 text; take another name", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in NOT_OURS:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        print(f"error: {where}{error.strerror}", file=sys.stderr)
        return 1


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The words --nodes and --gpus."""
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes (default 1)")
    parser.add_argument(
        "--gpus", type=int, default=8, metavar="N", help="GPUs on each node, one rank each (default 8)"
    )


def add_overrides(parser: argparse.ArgumentParser, help: str | None = None) -> None:
    """The word --set, any number of times, as ``overrides``."""
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], dest="overrides", help=help)


def error_line(error: BaseException) -> str:
    """An error's text with its line breaks shown as blanks."""
    return " ".join(str(error).split())


def positive(text: str) -> int:
    """An option's whole number above 0."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0")
    return int(text)
