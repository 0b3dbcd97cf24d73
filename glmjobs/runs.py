"""`python -m glmjobs.runs`: all runs, with what came out of them and what they cost."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console

from glmjobs.cli import run_command
from glmjobs.run.index import Index
from glmjobs.run.locate import directories, parent
from glmjobs.run.read_state import read_states
from glmjobs.run.state import DONE, RunState
from glmjobs.terminal.tables import Overview, accuracy


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.runs", description="All runs: state, accuracy, GPU-hours."
    )
    p.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return p


def main(argv: list[str] | None = None) -> int:
    """List them."""
    args = parser().parse_args(argv)
    found = read_states(directories(), index=Index(parent()))
    if args.json:
        print(json.dumps([summary(state) for state in found], ensure_ascii=False))
        return 0
    if not found:
        print(f"no runs under {parent()}", file=sys.stderr)
        return 0
    Console(highlight=False).print(Overview(found))
    return 0


def summary(state: RunState) -> dict[str, Any]:
    """One run's result as plain data."""
    hours = {part: round(value, 6) for part, value in state.gpu_hours.items()}
    trouble = state.trouble
    return {
        "run": state.name, "path": state.path, "state": state.state, "stage": current(state),
        "accuracy": {model: accuracy(state, model) for model in ("base", "finetuned")},
        "gpu_hours": hours, "error": (trouble.error or trouble.reason) if trouble else state.unreadable or None,
    }  # fmt: skip


def current(state: RunState) -> str:
    """The stage that the run's state is about."""
    return next((s.stage for s in state.submitted if s.state != DONE), "")


if __name__ == "__main__":
    raise SystemExit(run_command(main))
