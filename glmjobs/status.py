"""`python -m glmjobs.status RUN`: how a run is doing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from glmjobs import state as states
from glmjobs.cli import run_command
from glmjobs.run import Run


def main(argv: list[str] | None = None) -> int:
    """Show every stage's state."""
    parser = argparse.ArgumentParser(prog="python -m glmjobs.status", description="How a run is doing.")
    parser.add_argument("run", help="run directory, or its name under runs/")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    args = parser.parse_args(argv)
    run = Run.open(args.run)
    state = states.read(run)
    if args.json:
        print(json.dumps({**asdict(state), "state": state.state, "ended": state.ended}, ensure_ascii=False))
        return 0
    table = Table(title=f"{state.name}: {state.state}", title_justify="left")
    for column in ("stage", "state", "job", "attempts", "nodes", "step", "loss", "tokens/s", "why"):
        table.add_column(column)
    for s in state.stages:
        table.add_row(
            s.stage, s.state, s.job or "", str(s.attempts or ""), s.nodes or "",
            f"{s.step}/{s.of}" if s.step is not None else "", f"{s.loss:.4f}" if s.loss is not None else "",
            f"{s.tokens_per_s:,.0f}" if s.tokens_per_s else "", s.error or s.reason,
        )  # fmt: skip
    Console().print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
