"""`glmjobs completion bash|zsh`: what the Tab key offers after ``glmjobs``, as a script for the shell.

    eval "$(glmjobs completion bash)"                  in ~/.bashrc
    glmjobs completion zsh >~/.zfunc/_glmjobs          a folder of $fpath

Made by shtab from the commands' own parsers: commands, options, their choices, files, and the runs that are there. At
the Tab key no Python starts, which would take seconds on a login node's file system.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

from glmjobs.cli import COMMANDS, run_command
from glmjobs.template import names
from hpc.core.errors import NotFit

LISTS = {
    "run": "run", "score target": "run", "chat dir": "run", "consolidate source": "run",
    "recipe": "recipe", "cluster": "cluster",
}  # fmt: skip
"""Which list an argument is offered besides files; an argument of one command alone stands with that command's name."""

PATHS = {"FILE", "DATA", "SOURCE", "checkpoint", "out", "texts"}
"""Arguments that are files or directories, and not of type Path."""

BASH_RUNS = """\
for name in "${GLMJOBS_RUNS:-runs}"/*/run.yaml; do
    [ -e "$name" ] && name=${name%/run.yaml} && names+=("${name##*/}")
  done"""
ZSH_RUNS = "names=(${GLMJOBS_RUNS:-runs}/*/run.yaml(N:h:t))"

BASH = """
_glmjobs_{list}_or_file() {{
  local name names=()
  {fill}
  compgen -W "${{names[*]}}" -- "$1"
  compgen -f -- "$1"
}}
"""
ZSH = """
_glmjobs_{list}_or_file() {{
  local -a names
  {fill}
  compadd -a names
  _files
}}
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.completion", description="Completion of glmjobs for a shell, as a script."
    )
    p.add_argument("shell", choices=("bash", "zsh"))
    return p


def main(argv: list[str] | None = None) -> int:
    """Print the script."""
    print(script(parser().parse_args(argv).shell))
    return 0


def script(shell: str) -> str:
    """The completion script.

    Raises:
        NotFit: the package shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise NotFit("completion needs the package shtab: pip install shtab") from None
    whole = argparse.ArgumentParser(prog="glmjobs")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    for name, what in COMMANDS.items():
        own = importlib.import_module(f"glmjobs.{name}").parser()
        for action in actions(own):
            offer(action, name, shtab.FILE, shtab.DIRECTORY)
        commands.add_parser(name, help=what, parents=[own], add_help=False)
    return str(shtab.complete(whole, shell, preamble={shell: functions(shell)}))


def actions(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """A command's arguments, and those of its subcommands."""
    found = list(command._actions)
    nested = [p for a in found if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()]
    return found + [action for parser in nested for action in actions(parser)]


def offer(action: argparse.Action, command: str, files: Any, directories: Any) -> None:
    """Say what an argument completes to, as shtab reads it; where it has choices, they are it."""
    word = action.metavar or action.dest
    known = LISTS.get(action.dest) or LISTS.get(f"{command} {action.dest}")
    complete: Any = None
    if known:
        complete = dict.fromkeys(("bash", "zsh"), f"_glmjobs_{known}_or_file")
    elif word == "DIR":
        complete = directories
    elif action.type is Path or word in PATHS:
        complete = files
    if complete:
        action.complete = complete  # type: ignore[attr-defined]


def functions(shell: str) -> str:
    """The shell functions that offer a list and files."""
    text = {"bash": BASH, "zsh": ZSH}[shell]
    fill = {
        "run": {"bash": BASH_RUNS, "zsh": ZSH_RUNS}[shell],
        "recipe": f"names=({' '.join(names('configs'))})",
        "cluster": f"names=({' '.join(names('configs/clusters'))})",
    }
    return "".join(text.format(list=key, fill=lines) for key, lines in fill.items())


if __name__ == "__main__":
    raise SystemExit(run_command(main))
