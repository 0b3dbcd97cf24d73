"""What the commands share: their list, options of several, and where they are done (errors and exit codes:
:mod:`hpc.core.command`)."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Callable

from hpc.core import command
from hpc.core.command import error_line

__all__ = ["COMMANDS", "add_overrides", "add_shape", "error_line", "positive", "run_command"]

COMMANDS = {
    "setup": "on a login node, from nothing to a scored run: asks what it cannot find out",
    "submit": "make a run and start its chain of jobs",
    "sweep": "a run for every combination of settings",
    "rehearse": "a few steps of the real job, a killed rank, all stages: what will hold",
    "plan": "memory, disk and hours of a training, before it costs any",
    "status": "how a run is doing: stages, step, loss, jobs",
    "runs": "all runs: state, accuracy, GPU-hours",
    "watch": "runs in a browser, live: stages, curves, logs, answers",
    "logs": "what a run's stages wrote",
    "cancel": "end a run's jobs",
    "save": "have a training save a checkpoint now",
    "heal": "let a run that failed or was cut off go on",
    "fetch": "put a model or data set where every node sees it",
    "prepare": "read, check and split a data file",
    "consolidate": "a ZeRO checkpoint becomes a model directory",
    "reshard": "resume a checkpoint on another number of GPUs",
    "score": "answers and accuracy of a model, or of a run's two models",
    "mark": "why an answer is right or wrong, rule by rule",
    "report": "a run's report, as HTML, Markdown and JSON",
    "compare": "several runs side by side: what differs, accuracy, curves, cost",
    "track": "send runs to wandb, SwanLab or MLflow",
    "chat": "talk to a model directory",
    "models": "the model families, and what a model directory is",
    "convert": "THUDM/GLM's model-parallel checkpoints to a model directory and back",
    "template": "recipes, cluster profiles and batch scripts to start from",
    "completion": "what the Tab key offers, for bash or zsh",
    "doctor": "is this machine, this cluster, this environment fit",
    "preflight": "called by the train job: check the nodes of a run",
    "train": "called by the train job: the train stage of a run, in this process",
    "attach": "called by the scripts in sbatch/: make this Slurm job a job of a run",
}
"""The commands, in the order in which they are listed: modules of this package, each with ``parser`` and ``main``."""


BY_SSH = (
    "submit", "sweep", "rehearse", "status", "runs", "logs", "save", "cancel", "heal", "report",
)  # fmt: skip
"""What may belong to a cluster that is reached by ssh (:mod:`glmjobs.run.elsewhere`)."""


def run_command(main: Callable[[list[str] | None], int], argv: list[str] | None = None) -> int:
    """Do a command, here or on the cluster where its run is, and return the process's exit code."""

    def here_or_there(argv: list[str] | None) -> int:
        words = sys.argv[1:] if argv is None else argv
        name = _name(main)
        if name == "__main__" and words:
            name, words = words[0], words[1:]
        if name in BY_SSH:
            with contextlib.suppress(ModuleNotFoundError):  # what is not installed, the command itself says
                # By its name: it stands above this module, which everything imports.
                code = importlib.import_module("glmjobs.run.elsewhere").go(name, words)
                if code is not None:
                    return int(code)
        return main(argv)

    return command.run_command(here_or_there, argv)


def _name(main: Callable[[list[str] | None], int]) -> str:
    """The command whose ``main`` this is; started by ``python -m``, its module is called ``__main__``."""
    module = main.__module__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        module = spec.name if spec is not None else ""
    return module.rpartition(".")[2]


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The words --nodes and --gpus."""
    parser.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes (default 1)")
    parser.add_argument(
        "--gpus", type=int, default=8, metavar="N", help="GPUs on each node, one rank each (default 8)"
    )


def add_overrides(parser: argparse._ActionsContainer, help: str | None = None) -> None:
    """The word --set, any number of times, as ``overrides``."""
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], dest="overrides", help=help)


def positive(text: str) -> int:
    """An option's whole number above 0."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0")
    return int(text)
