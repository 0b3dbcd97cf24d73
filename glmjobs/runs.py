"""`python -m glmjobs.runs`: all runs, with what came out of them and what they cost."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from glmjobs import state as states
from glmjobs.cli import run_command
from glmjobs.places import directories, parent
from glmjobs.reporting.text import visible
from glmjobs.state import RunState
from hpc import ledger


def main(argv: list[str] | None = None) -> int:
    """List them."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.runs", description="All runs: state, accuracy, GPU-hours."
    )
    p.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = p.parse_args(argv)
    found = states.read_all(directories())
    if args.json:
        print(json.dumps([summary(state) for state in found], ensure_ascii=False))
        return 0
    if not found:
        print(f"no runs under {parent()}", file=sys.stderr)
        return 0
    Console(highlight=False).print(overview(found))
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


def accuracy(state: RunState, model: str) -> float | None:
    """A model's accuracy (0 to 1) once it is scored."""
    value = (ledger.read_json(Path(state.path) / "scores" / model / "summary.json") or {}).get("accuracy")
    return float(value) if isinstance(value, (int, float)) else None


def current(state: RunState) -> str:
    """The stage that the run's state is about."""
    return next((s.stage for s in state.submitted if s.state != states.DONE), "")


def overview(found: Sequence[RunState]) -> Table:
    """One row a run."""
    from glmjobs.status import COLOURS

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("run", "state", "stage"):
        shown.add_column(column, no_wrap=True)
    for column in ("base", "fine-tuned", "GPU-hours", "lost"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("why", overflow="fold", min_width=10)  # the one that gives way on a narrow terminal
    for state in found:
        stage = next((s for s in state.submitted if s.state != states.DONE), None)
        trouble = state.trouble or stage
        shown.add_row(
            visible(state.name), Text(state.state, COLOURS[state.state]), stage.stage if stage else "",
            *(_percent(accuracy(state, model)) for model in ("base", "finetuned")),
            f"{state.gpu_hours['held']:.2f}" if state.gpu_hours else "",
            f"{state.gpu_hours['lost']:.2f}" if state.gpu_hours else "",
            visible((trouble.error or trouble.reason) if trouble else state.unreadable),
        )  # fmt: skip
    return shown


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
