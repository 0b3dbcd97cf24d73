"""`python -m glmjobs` lists the commands; `python -m glmjobs COMMAND …` runs one. The console script does the same."""

from __future__ import annotations

import importlib
import sys

from glmjobs.cli import run_command

COMMANDS = {
    "submit": "make a run and start its chain of jobs",
    "plan": "memory, disk and hours of a training, before it costs any",
    "status": "how a run is doing: stages, step, loss, jobs",
    "runs": "all runs: state, accuracy, GPU-hours",
    "logs": "what a run's stages wrote",
    "cancel": "end a run's jobs",
    "heal": "let a run that failed or was cut off go on",
    "doctor": "is this machine, this cluster, this environment fit",
    "fetch": "put a model or data set where every node sees it",
    "prepare": "read, check and split a data file",
    "train": "the train stage of a run, in this process",
    "consolidate": "a ZeRO checkpoint becomes a model directory",
    "score": "answers and accuracy of a model, or of a run's two models",
    "report": "a run's report, as HTML, Markdown and JSON",
    "chat": "talk to a model directory",
}


def main(argv: list[str] | None = None) -> int:
    """Run a command by name."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print("python -m glmjobs COMMAND …      (each has --help)\n")
        print("\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()))
        print("\nThe cluster: python -m hpc.doctor, python -m hpc.devcluster")
        return 0
    if words[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; commands: {', '.join(COMMANDS)}"
        print(f"error: {words[0]}: no such command{hint}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"glmjobs.{words[0]}")
    return run_command(module.main, words[1:])


if __name__ == "__main__":
    raise SystemExit(main())
