"""What doctor found, as rows: for a table or as JSON."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table

State = Literal["ok", "warn", "bad"]
MARKS = {"ok": "[green]ok[/]", "warn": "[yellow]note[/]", "bad": "[red]NO[/]"}


@dataclass(frozen=True)
class Row:
    """One check: ``bad`` stops a run, ``warn`` is worth knowing."""

    section: str
    what: str
    state: State
    found: str
    needed: str = ""
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        """As in ``--json``."""
        return asdict(self)


def table(rows: list[Row], title: str) -> Table:
    """Rows by section; how to mend only where something is to be mended."""
    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "what", "found", "needed", "how to mend"):
        made.add_column(column, overflow="fold", no_wrap=column == "")
    section = ""
    for row in rows:
        if row.section != section:
            made.add_section()
            made.add_row("", f"[bold]{row.section}[/]")
            section = row.section
        cells = [row.what, row.found, row.needed, row.mend if row.state != "ok" else ""]
        made.add_row(MARKS[row.state], *(cell.replace("[", r"\[") for cell in cells))
    return made


def show(rows: list[Row], title: str) -> None:
    """The table on stdout, and a last line that says it all."""
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table(rows, title))
    bad = [row for row in rows if row.state == "bad"]
    notes = sum(row.state == "warn" for row in rows)
    if bad:
        console.print(f"not fit: {', '.join(dict.fromkeys(row.what for row in bad))}", markup=False)
    else:
        console.print(
            f"fit: {len(rows)} checks, {notes} worth a look" if notes else f"fit: {len(rows)} checks",
            markup=False,
        )
