"""Runs and stages as tables for a terminal of any width."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from glmjobs.run.state import (
    BROKEN,
    CANCELLED,
    DONE,
    FAILED,
    LOST,
    RUNNING,
    STOPPED,
    UNREADABLE,
    WAITING,
    RunState,
    StageState,
)
from glmjobs.text import left_out_words, visible
from glmjobs.tracking.state import troubles
from hpc.core import hints
from hpc.core.files import read_json

COLOURS = {
    DONE: "green", RUNNING: "cyan", WAITING: "yellow", STOPPED: "yellow",
    FAILED: "bold red", LOST: "bold red", CANCELLED: "magenta",
    UNREADABLE: "bold red", BROKEN: "bold red",
}  # fmt: skip


ADVICE_LINES = 3
"""Of what to ask for next time; the report has all of them."""


def render(state: RunState, advice: Sequence[str] = ()) -> RenderableType:
    """A run as a table, with what went wrong and what it cost below it.

    Args:
        advice: what to ask for next time, a line a piece, the most urgent first.
    """
    parts: list[RenderableType] = [_title(state), StageTable(state)]
    if state.broken:
        again = "put it back as it was: nothing can be done with the run before"
        parts.append(Text(f"broken   {visible(state.broken)}; {again}", "red", overflow="fold"))
    if state.slurm:
        parts.append(
            Text(
                f"Slurm does not answer ({visible(state.slurm)}): shown is what the run directory says",
                "yellow",
            )
        )
    parts += [Text(f"passed over at resume: {visible(said)}", "yellow") for said in state.passed_over]
    if lost := left_out_words(state.data):
        parts.append(Text(f"data     {state.data.get('examples', 0):,} training examples{lost}", "yellow"))
    parts += [
        Text(f"track    {visible(said)}", "yellow", overflow="fold") for said in troubles(Path(state.path))
    ]
    trouble = state.trouble
    if trouble is not None:
        logs = hints.command("glmjobs.logs", state.path, "--stage", trouble.stage)
        parts.append(Text(f"logs     {logs}", overflow="fold"))
        parts.append(Text(f"mend it  {hints.command('glmjobs.heal', state.path)}", overflow="fold"))
    if any(hours >= 0.005 for hours in state.gpu_hours.values()):
        parts.append(Text(cost_line(state.gpu_hours)))
    parts += [Text(f"next time  {visible(line)}", overflow="fold") for line in advice[:ADVICE_LINES]]
    return Group(*parts)


def _title(state: RunState) -> Text:
    return Text.assemble(
        (visible(state.name), "bold"), ": ", (state.state, COLOURS[state.state]), f"   {visible(state.path)}"
    )


COLUMNS = (
    "stage", "state", "job", "tries", "nodes", "step", "loss", "dev loss", "tokens/s", "MFU", "GPU", "left", "why",
)  # fmt: skip


RIGHT = ("tries", "step", "loss", "dev loss", "tokens/s", "MFU", "GPU", "left")


FIRST_TO_GO = ("nodes", "tries", "MFU", "tokens/s", "dev loss", "loss", "job", "GPU", "left", "step")
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
        steps(s), *(f"{loss:.4f}" if loss is not None else "" for loss in (s.loss, s.dev_loss)),
        f"{s.tokens_per_s:,.0f}" if s.tokens_per_s else "", f"{100 * s.mfu:.0f} %" if s.mfu is not None else "",
        f"{s.gpu_utilisation:.0f} %" if s.gpu_utilisation is not None else "", duration(s.time_left),
        visible(s.error or s.reason),
    )  # fmt: skip


def steps(stage: StageState) -> str:
    """``60/60`` or, where epochs are known, ``60/60 (1.54 epochs)``."""
    if stage.step is None:
        return ""
    epochs = f" ({stage.epoch:.3g} epochs)" if stage.epoch is not None else ""
    return f"{stage.step}/{stage.of}{epochs}"


def state_word(stage: StageState) -> str:
    """``running 3/8`` for an array with three of eight elements done, else the state."""
    total = sum(stage.elements.values())
    if total < 2 or stage.state not in (RUNNING, WAITING):
        return stage.state
    return f"{stage.state} {stage.elements.get(DONE, 0)}/{total}"


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


def accuracy(state: RunState, model: str) -> float | None:
    """A model's accuracy (0 to 1) once it is scored."""
    value = (read_json(Path(state.path) / "scores" / model / "summary.json") or {}).get("accuracy")
    return float(value) if isinstance(value, (int, float)) else None


class Overview:
    """One row a run. Written line by line: rich's own tables take a second for a thousand rows."""

    HEAD = ("run", "state", "stage", "base", "fine-tuned", "GPU-hours", "lost", "why")
    RIGHT = range(3, 7)

    def __init__(self, found: Sequence[RunState]) -> None:
        self.rows = [self._row(state) for state in found]

    @staticmethod
    def _row(state: RunState) -> tuple[str, ...]:
        stage = next((s for s in state.submitted if s.state != DONE), None)
        trouble = state.trouble or stage
        hours = state.gpu_hours
        return (
            visible(state.name), state.state, stage.stage if stage else "",
            *(_percent(accuracy(state, model)) for model in ("base", "finetuned")),
            *(f"{hours[part]:.2f}" if hours else "" for part in ("held", "lost")),
            visible((trouble.error or trouble.reason) if trouble else state.unreadable),
        )  # fmt: skip

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        columns = list(zip(self.HEAD, *self.rows, strict=True))[:-1]
        widths = [max(map(cell_len, column)) for column in columns]
        # The reasons are folded on a narrow terminal; the others are never cut.
        room = max(options.max_width - sum(widths) - 2 * len(widths), 10)
        bold = console.get_style("bold")
        styles = {state: console.get_style(colour) for state, colour in COLOURS.items()}
        for row in (self.HEAD, *self.rows):
            for at, (cell, width) in enumerate(zip(row, widths, strict=False)):
                pad = " " * (width - cell_len(cell))
                text = pad + cell if at in self.RIGHT else cell + pad
                style = bold if row is self.HEAD else styles.get(cell) if at == 1 else None
                yield Segment(text + "  ", style)
            why = Text(row[-1]).wrap(console, room) if cell_len(row[-1]) > room else [Text(row[-1])]
            for number, line in enumerate(why):
                indent = " " * (sum(widths) + 2 * len(widths)) if number else ""
                yield Segment(f"{indent}{line.plain.rstrip()}\n", bold if row is self.HEAD else None)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
