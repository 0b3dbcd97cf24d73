"""`python -m glmjobs.status [RUN]`: how a run is doing, or all runs. `--watch` stays; `--json` is for programs."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from glmjobs import places, runs
from glmjobs import state as states
from glmjobs.cli import run_command
from glmjobs.reporting.text import visible
from glmjobs.state import RunState, StageState
from hpc import ledger

WATCH_SECONDS = 2.0
SLURM_EVERY = 5  # refreshes: the controller is asked every 10 s
COLOURS = {
    states.DONE: "green", states.RUNNING: "cyan", states.WAITING: "yellow", states.STOPPED: "yellow",
    states.FAILED: "bold red", states.LOST: "bold red", states.CANCELLED: "magenta",
    states.UNREADABLE: "bold red",
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.status", description="How a run is doing, or all runs."
    )
    p.add_argument(
        "run", nargs="?", help="run directory, or its name under runs/; without it: all runs there"
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
    if args.run is None:
        found = places.directories()
        if args.json:
            print(json.dumps([s.document() for s in states.read_all(found)], ensure_ascii=False))
            return 0
        if not found:
            print(f"no runs under {places.parent()}", file=sys.stderr)
            return 0
        return show(
            console, lambda ask: runs.overview(states.read_all(found, ask_slurm=ask)), watch=args.watch
        )
    run = places.locate(args.run)
    if args.json:
        print(json.dumps(states.read(run).document(), ensure_ascii=False))
        return 0
    state: list[RunState] = []

    def view(ask: bool) -> RenderableType:
        state[:] = [states.read(run, ask_slurm=ask)] if ask or not state else [_refresh(run, state[0])]
        return render(state[0])

    return show(console, view, watch=args.watch, ended=lambda: bool(state) and state[0].ended)


def _refresh(run: places.Place, before: RunState) -> RunState:
    """The run directory's news; what Slurm last said of a stage stands while the ledger says the same of it."""
    now = states.read(run, ask_slurm=False)
    called_off = False
    for new, old in zip(now.stages, before.stages, strict=True):
        same = new.job == old.job and new.attempts == old.attempts
        waits = new.state == states.WAITING and old.state in (states.WAITING, *states.BAD)
        called_off |= (dead := same and new.state == states.RUNNING and old.state in states.BAD)
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


def render(state: RunState) -> RenderableType:
    """A run as a table, with what went wrong and what it cost below it."""
    parts: list[RenderableType] = [_title(state), StageTable(state)]
    if state.slurm:
        parts.append(
            Text(
                f"Slurm does not answer ({visible(state.slurm)}): shown is what the run directory says",
                "yellow",
            )
        )
    trouble = state.trouble
    if trouble is not None:
        name = shlex.quote(state.path)
        parts.append(Text(f"logs     python -m glmjobs.logs {name} --stage {trouble.stage}", overflow="fold"))
        parts.append(Text(f"mend it  python -m glmjobs.heal {name}", overflow="fold"))
    if any(hours >= 0.005 for hours in state.gpu_hours.values()):
        parts.append(Text(cost_line(state.gpu_hours)))
    return Group(*parts)


def _title(state: RunState) -> Text:
    return Text.assemble(
        (visible(state.name), "bold"), ": ", (state.state, COLOURS[state.state]), f"   {visible(state.path)}"
    )


COLUMNS = ("stage", "state", "job", "tries", "nodes", "step", "loss", "tokens/s", "GPU", "left", "why")
RIGHT = ("tries", "step", "loss", "tokens/s", "GPU", "left")
FIRST_TO_GO = ("nodes", "tries", "tokens/s", "loss", "job", "GPU", "left", "step")
"""Columns that a narrow terminal does without, in this order; a number cut short would be another number."""

WHY_WIDTH = 26
"""The reasons stand beside the table where so many characters are left for them, else below it."""


class StageTable:
    """One row a stage. Columns that have nothing to say are left out, and those that the terminal has no room for."""

    def __init__(self, state: RunState) -> None:
        self.rows = [(stage, dict(zip(COLUMNS, cells(stage), strict=True))) for stage in state.stages]
        self.used = [
            name for name in COLUMNS if name in ("stage", "state") or any(row[name] for _, row in self.rows)
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whys = [row["why"] for _, row in self.rows if row["why"]]
        names = [name for name in self.used if name != "why"]
        while self._width(names) > options.max_width and (gone := [n for n in FIRST_TO_GO if n in names]):
            names.remove(gone[0])
        beside = self._width(names) + 1 + min(WHY_WIDTH, max(map(cell_len, whys), default=0))
        if whys and beside <= options.max_width:
            yield self._table([*names, "why"])
            return
        yield self._table(names)
        for stage, row in self.rows:
            if row["why"]:
                yield Text(f"{stage.stage}: {row['why']}", overflow="fold")

    def _width(self, names: Sequence[str]) -> int:
        longest = (max(cell_len(name), *(cell_len(row[name]) for _, row in self.rows)) for name in names)
        return sum(longest) + len(names) - 1

    def _table(self, names: Sequence[str]) -> Table:
        shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        for name in names:
            shown.add_column(
                name, justify="right" if name in RIGHT else "left", no_wrap=name != "why", overflow="fold"
            )
        for stage, row in self.rows:
            shown.add_row(*(Text(row[n], COLOURS[stage.state] if n == "state" else "") for n in names))
        return shown


def cells(s: StageState) -> tuple[str, ...]:
    """A stage's row, as text, in the order of :data:`COLUMNS`."""
    return (
        s.stage, state_word(s), visible(s.job or ""), str(s.attempts or ""), visible(s.nodes or ""),
        f"{s.step}/{s.of}" if s.step is not None else "", f"{s.loss:.4f}" if s.loss is not None else "",
        f"{s.tokens_per_s:,.0f}" if s.tokens_per_s else "",
        f"{s.gpu_utilisation:.0f} %" if s.gpu_utilisation is not None else "", duration(s.time_left),
        visible(s.error or s.reason),
    )  # fmt: skip


def state_word(stage: StageState) -> str:
    """``running 3/8`` for an array with three of eight elements done, else the state."""
    total = sum(stage.elements.values())
    if total < 2 or stage.state not in (states.RUNNING, states.WAITING):
        return stage.state
    return f"{stage.state} {stage.elements.get(states.DONE, 0)}/{total}"


def duration(seconds: float | None) -> str:
    """``2:05:30``; "" for None."""
    if seconds is None:
        return ""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"


def cost_line(hours: dict[str, float]) -> str:
    """GPU-hours in one line."""
    parts = ", ".join(f"{part} {hours[part]:.2f}" for part in ("useful", "startup", "lost", "preflight"))
    return f"GPU-hours: {hours['held']:.2f} held ({parts}); waiting {hours['waiting']:.2f}"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
