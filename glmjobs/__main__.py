"""`python -m glmjobs` lists the commands; `python -m glmjobs COMMAND …` runs one. The console script does the same."""

from __future__ import annotations

import importlib
import sys

from glmjobs import __version__
from glmjobs.cli import COMMANDS, run_command
from hpc.core import hints
from hpc.core.resources import default_stack


def main(argv: list[str] | None = None) -> int:
    """The console script."""
    return run_command(choose, argv)


def choose(argv: list[str] | None = None) -> int:
    """Run a command by name."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print("python -m glmjobs COMMAND …      (each has --help)\n")
        print("\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()))
        print("\nThe cluster: python -m hpc.bootstrap, python -m hpc.lint, python -m hpc.devcluster")
        return 0
    if words[0] == "--version":
        print(f"glmjobs {__version__}")
        return 0
    if words[0] not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; commands: {', '.join(COMMANDS)}"
        print(f"error: {words[0]}: no such command{hint}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"glmjobs.{words[0]}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("glmjobs", "hpc"):
            raise
        into = hints.command("hpc.bootstrap", "--stack", default_stack(), "--into", sys.prefix)
        said = f"{error.name} is not installed in {sys.prefix}; {into}"
        print(f"error: {said}", file=sys.stderr)
        return 3
    return int(module.main(words[1:]))


if __name__ == "__main__":
    raise SystemExit(main())
