"""`python -m glmjobs.compare RUN RUN…`: several runs side by side: what differs, accuracy, curves, cost.

Prints a table and writes one page. Two runs are compared on the rows that both have scored, with McNemar's test.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from glmjobs.cli import run_command
from glmjobs.reporting import comparison_page as page
from glmjobs.reporting import wording
from glmjobs.reporting.comparison import Compared, comparison
from glmjobs.reporting.document import document
from glmjobs.reporting.load import load_facts
from glmjobs.run import locate, sweeps
from glmjobs.run.directory import Run
from glmjobs.text import utc, visible
from hpc.core.errors import BadInput
from hpc.core.files import write_atomic

WIDTH = 110
"""Columns that the tables take at least: a narrower terminal folds lines, not words."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.compare", description=(__doc__ or "").split("\n\n")[0]
    )
    p.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directories, names under runs/, or a sweep's; two runs at least",
    )
    p.add_argument(
        "--into", type=Path, metavar="FILE", help="the page (default: comparison.html beside the runs)"
    )
    p.add_argument(
        "--json", action="store_true", help="one JSON document on stdout; no page unless --into names it"
    )
    return p


def main(argv: list[str] | None = None) -> int:
    """Compare them."""
    args = parser().parse_args(argv)
    if args.into is not None and args.into.suffix != ".html":
        raise BadInput(f"--into {args.into}: the page's name ends in .html")
    if args.into is not None and not args.into.parent.is_dir():
        raise BadInput(f"--into {args.into}: {args.into.parent} is no directory")
    paths = list(dict.fromkeys(run.path for run in sweeps.expand(args.runs)))
    if len(paths) < 2:
        raise BadInput(f"{paths[0].name}: one run is no comparison; name two or more")
    found = comparison([read(path, name) for path, name in zip(paths, unique_names(paths), strict=True)])
    target: Path | None = args.into or (None if args.json else locate.parent() / "comparison.html")
    if target is not None:
        write(target, page.render(found, utc(time.time())))
    if args.json:
        print(
            json.dumps(
                {**found, "page": str(target) if target else None}, ensure_ascii=False, allow_nan=False
            )
        )
        return 0
    show(found)
    print(target)
    return 0


def read(path: Path, name: str) -> Compared:
    """A run as it stands.

    Raises:
        BadInput: it has no run.yaml that can be read.
    """
    facts = load_facts(path, Run.open(path).file.model_dump(mode="json"))
    return Compared(name=name, facts=facts, document=document(facts))


def unique_names(paths: list[Path]) -> list[str]:
    """The runs' names; where two are alike, with as many of their folders as tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = [visible("/".join(path.parts[-depth:])) for path in paths]
        if len(set(names)) == len(names):
            break
    return names


def write(target: Path, text: str) -> None:
    """The page, whole or not at all."""
    try:
        write_atomic(target, text)
    except OSError as error:
        raise BadInput(f"{target}: {error.strerror}; --into FILE writes the page elsewhere") from None


def show(found: dict[str, Any]) -> None:
    """As tables for a terminal."""
    console = Console(highlight=False, width=max(WIDTH, Console().width))
    console.print(_table(page.result_table(found)))
    if (differ := page.differ_table(found)) is not None:
        console.print(_table(differ))
    for line in page.lines_of_pairs(found):
        console.print(Text(line))
    for note in found["notes"]:
        print(f"note: {note}", file=sys.stderr)


def _table(content: wording.Table) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for at, name in enumerate(content.head):
        shown.add_column(Text(name), justify="right" if at in content.numeric else "left", overflow="fold")
    for row in content.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


if __name__ == "__main__":
    raise SystemExit(run_command(main))
