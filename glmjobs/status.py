"""`python -m glmjobs.status [RUN]`: how a run is doing, or all runs. `--watch` stays; `--json` is for programs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

from glmjobs.cli import run_command
from glmjobs.run import efficiency, locate, sweeps
from glmjobs.run import read_state as states
from glmjobs.run.locate import RunPath
from glmjobs.run.read_state import read_state, read_states
from glmjobs.run.state import BAD, RUNNING, WAITING, RunState
from glmjobs.terminal.tables import Overview, render
from hpc.chain import ledger

WATCH_SECONDS = 2.0
SLURM_EVERY = 5  # refreshes: the controller is asked every 10 s


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.status", description="How a run is doing, or all runs."
    )
    p.add_argument(
        "run", nargs="?", help="run directory, its name under runs/, or a sweep's; without it: all runs there"
    )
    p.add_argument(
        "--watch", action="store_true", help="stay and refresh until the run ends (Ctrl-C leaves it alone)"
    )
    p.add_argument("--json", action="store_true", help="one JSON document on stdout")
    return p


def main(argv: list[str] | None = None) -> int:
    """Show every stage's state, or a line for every run."""
    args = parser().parse_args(argv)
    console = Console(highlight=False)
    several = locate.directories() if args.run is None else sweeps.members(args.run)
    if several is not None:
        found = several
        if args.json:
            print(json.dumps([s.document() for s in read_states(found)], ensure_ascii=False))
            return 0
        if not found:
            print(f"no runs under {locate.parent()}", file=sys.stderr)
            return 0
        return show(console, lambda ask: Overview(read_states(found, ask_slurm=ask)), watch=args.watch)
    run = locate.locate(args.run)
    if args.json:
        document = {
            **read_state(run).document(),
            "efficiency": efficiency.document(efficiency.of_run(run.path)),
        }
        print(json.dumps(document, ensure_ascii=False))
        return 0
    state: list[RunState] = []
    advice: list[str] = []

    def view(ask: bool) -> RenderableType:
        state[:] = [read_state(run, ask_slurm=ask)] if ask or not state else [_refresh(run, state[0])]
        if ask:
            advice[:] = [found.line for found in efficiency.advice(efficiency.of_run(run.path))]
        return render(state[0], advice)

    return show(console, view, watch=args.watch, ended=lambda: bool(state) and state[0].ended)


def _refresh(run: RunPath, before: RunState) -> RunState:
    """The run directory's news; what Slurm last said of a stage stands while the ledger says the same of it."""
    now = read_state(run, ask_slurm=False)
    called_off = False
    for new, old in zip(now.stages, before.stages, strict=True):
        same = new.job == old.job and new.attempts == old.attempts
        waits = new.state == WAITING and old.state in (WAITING, *BAD)
        called_off |= (dead := same and new.state == RUNNING and old.state in BAD)
        if dead or (same and waits):
            new.state, new.reason, new.error = old.state, old.reason, old.error
    now.slurm = before.slurm
    if called_off:  # it is not counted until now
        states.add_costs(now, ledger.read(run.path))
    return now


def show(
    console: Console,
    view: Callable[[bool], RenderableType],
    *,
    watch: bool,
    ended: Callable[[], bool] = lambda: False,
) -> int:
    """Print once, or keep the terminal up to date."""
    if not watch:
        console.print(view(True))
        return 0
    with Live(view(True), console=console, auto_refresh=False, screen=False) as live:
        count = 0
        while not ended():
            time.sleep(WATCH_SECONDS)
            count += 1
            live.update(view(count % SLURM_EVERY == 0), refresh=True)
        live.update(view(True), refresh=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_command(main))
