"""`python -m glmjobs.mark QUESTION GOLD ANSWER`: why an answer is right or wrong, rule by rule.

    python -m glmjobs.mark "还剩几颗？" "所以还剩9颗。" "15-6=9（颗）答：还剩九颗。"
    python -m glmjobs.mark runs/my-run/scores/finetuned/predictions.jsonl --wrong

Of a file (JSON lines with question, gold and prediction, as ``predictions.jsonl`` has them) every row is shown, or
those asked for. The marker is :func:`glmjobs.marking.judge`; docs/scoring.md tells its rules.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glmjobs.cli import run_command
from hpc.core.errors import BadInput

FIELDS = ("question", "gold", "prediction")
UNSURE = 0.6
"""Below this a verdict is worth a look."""
SIDES = {"question": "cyan", "gold": "yellow", "prediction": "magenta", "verdict": "bold"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m glmjobs.mark", description="Why an answer is right or wrong, rule by rule."
    )
    p.add_argument(
        "texts", nargs="+", metavar="QUESTION GOLD ANSWER | FILE", help="three texts, or a file of rows"
    )
    p.add_argument("--row", metavar="ID", help="of a file: this row alone")
    p.add_argument("--wrong", action="store_true", help="of a file: the rows that are not right")
    p.add_argument("--unsure", action="store_true", help="of a file: the rows worth a look")
    p.add_argument("--json", action="store_true", help="one JSON object a row instead")
    return p


def main(argv: list[str] | None = None) -> int:
    """Mark three texts, or the rows of a file, and show how."""
    from glmjobs.marking import judge

    args = parser().parse_args(argv)
    shown = 0
    for row in _rows(args):
        verdict = judge(*(row[name] for name in FIELDS))
        if (args.wrong and verdict.correct) or (args.unsure and verdict.sure >= UNSURE):
            continue
        shown += 1
        if args.json:
            said = {**vars(verdict), "trace": [step._asdict() for step in verdict.trace]}
            print(json.dumps({**row, **said}, ensure_ascii=False))
        else:
            _show(row, verdict)
    if len(args.texts) == 1 and not args.json:
        print(f"{shown} rows shown", file=sys.stderr)
    return 0


def _rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if len(args.texts) == len(FIELDS):
        yield dict(zip(FIELDS, args.texts, strict=True))
        return
    path = Path(args.texts[0])
    if len(args.texts) != 1 or not path.is_file():
        what = f"{path}: no such file" if len(args.texts) == 1 else f"{len(args.texts)} texts"
        raise BadInput(f"{what}; give three texts, QUESTION GOLD ANSWER, or one file of rows")
    found = args.row is None
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            row = _row(path, number, line) if line.strip() else None
            if row is not None and (args.row is None or str(row.get("id")) == args.row):
                found = True
                yield row
    if not found:
        raise BadInput(f"{path}: no row with the id {args.row}")


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        raise BadInput(f"{path}:{number}: no JSON; one object a line is wanted") from None
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in FIELDS):
        raise BadInput(f"{path}:{number}: question, gold and prediction (texts) are wanted in each row")
    return row


def _show(row: dict[str, Any], verdict: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    word = ("right" if verdict.correct else "wrong") if verdict.status == "marked" else verdict.status
    colour = "green" if verdict.correct else "red" if verdict.status == "marked" else "yellow"
    head = Text.assemble((word, f"bold {colour}"), f": {verdict.reason} (sure: {verdict.sure:.0%})")
    console.print(Text(row["question"].strip(), style="bold"))
    console.print(head)
    table = Table(box=None, pad_edge=False, show_header=False)
    for step in verdict.trace:
        span = step.span.replace("\n", " ")
        table.add_row(
            Text(step.side, style=SIDES.get(step.side, "")), Text(step.rule, style="dim"), Text(span)
        )
    console.print(table)
    console.print()


if __name__ == "__main__":
    raise SystemExit(run_command(main))
