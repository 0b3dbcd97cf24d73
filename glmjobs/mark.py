"""`python -m glmjobs.mark QUESTION GOLD ANSWER`: why an answer is right or wrong, rule by rule.

    python -m glmjobs.mark "还剩几颗？" "所以还剩9颗。" "15-6=9（颗）答：还剩九颗。"
    python -m glmjobs.mark runs/my-run/scores/finetuned/predictions.jsonl --wrong
    python -m glmjobs.mark runs/my-run/scores/finetuned/predictions.jsonl --judge meaning --judge exact

Of a file (JSON lines with question, gold and prediction, as ``predictions.jsonl`` has them) every row is shown, or
those asked for; with two judges, those on which they disagree. Unless another is named, the judge is the marker,
:func:`glmjobs.marking.judge`; docs/scoring.md tells its rules, and of the other judges.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glmjobs.cli import run_command
from glmjobs.data.reading import BLANK, Problem, Record, read_json
from glmjobs.run.locate import parent
from glmjobs.scoring.judges import mark_all, not_marked
from glmjobs.scoring.judges.options import add_judge, judging_of
from glmjobs.text import visible
from hpc.core.errors import BadInput, WorkFailed, reading_what_was_named

if TYPE_CHECKING:
    from glmjobs.marking import Step, Verdict
    from glmjobs.scoring.judges import Judge

FIELDS = ("question", "gold", "prediction")
WANTED = f"one object a line is wanted, with {', '.join(FIELDS)}"
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
    add_judge(p)
    return p


def main(argv: list[str] | None = None) -> int:
    """Mark three texts, or the rows of a file, and show how."""
    args = parser().parse_args(argv)
    judges = judging_of(args).load()
    whole = len(args.texts) == 1
    with reading_what_was_named():
        rows = list(_rows(args))
    texts = [(row[FIELDS[0]], row[FIELDS[1]], row[FIELDS[2]]) for row in rows]
    marked, shown = Counter[str](), 0
    first, *others = judges
    several = [mark_all(first, texts), *(_second(judge, texts) for judge in others)]
    for row, verdicts in zip(rows, zip(*several, strict=True), strict=True):
        words = [said(verdict) for verdict in verdicts]
        marked.update(f"{judge.name}: {word}" for judge, word in zip(judges, words, strict=True))
        agree = len(judges) == 2 and words[0] == words[1]
        sure = args.unsure and verdicts[0].sure >= UNSURE
        if (whole and agree) or (args.wrong and verdicts[0].correct) or sure:
            continue
        shown += 1
        if args.json:
            found = {
                judge.name: {**vars(verdict), "trace": [step._asdict() for step in verdict.trace]}
                for judge, verdict in zip(judges, verdicts, strict=True)
            }
            both = found if len(judges) == 2 else found[judges[0].name]
            line = json.dumps({**row, **both}, ensure_ascii=False)
            print(line.encode("utf-8", "backslashreplace").decode())  # half characters stay escapes
        else:
            _show(row, dict(zip((judge.name for judge in judges), verdicts, strict=True)))
    if whole and not args.json:
        counts = ", ".join(f"{what} {count}" for what, count in sorted(marked.items()))
        print(f"{shown} of {len(rows)} rows shown ({counts})", file=sys.stderr)
    return 0


def _second(judge: Judge, texts: Sequence[tuple[str, str, str]]) -> Iterator[Verdict]:
    """A second judge's verdicts; where it can give none at all the first one's stand, and a line says so."""
    done = 0
    try:
        for verdict in mark_all(judge, texts):
            yield verdict
            done += 1
    except (BadInput, WorkFailed) as error:
        print(f"mark: {error}; it marks no row", file=sys.stderr, flush=True)
        yield from [not_marked(str(error))] * (len(texts) - done)


def said(verdict: Verdict) -> str:
    """A verdict in a word or two: right, wrong, not marked, failed."""
    return ("right" if verdict.correct else "wrong") if verdict.status == "marked" else verdict.status


def _rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if len(args.texts) == len(FIELDS):
        if of_file := next((name for name in ("row", "wrong", "unsure") if getattr(args, name)), None):
            raise BadInput(f"--{of_file} chooses rows of a file; three texts are one row")
        yield dict(zip(FIELDS, args.texts, strict=True))
        return
    path = Path(args.texts[0])
    if len(args.texts) != 1 or not path.is_file():
        what = _no_file(path) if len(args.texts) == 1 else f"{len(args.texts)} texts"
        raise BadInput(f"{what}; give three texts, QUESTION GOLD ANSWER, or one file of rows")
    found = args.row is None
    for record in read_json(path):
        if isinstance(record, Problem):
            if record.reason == BLANK:
                continue
            detail = f" ({record.detail})" if record.detail else ""
            raise BadInput(f"{path}:{record.line}: {record.reason}{detail}; {WANTED}")
        row = _row(path, record)
        if args.row is None or str(row.get("id")) == args.row:
            found = True
            yield row
    if not found:
        raise BadInput(f"{path}: no row with the id {args.row}")


def _no_file(path: Path) -> str:
    """Why a path is no file of rows, and which is meant where it is a run (path or name) or a directory of scores."""
    for place in (path, parent() / path):
        for name in (
            "predictions.jsonl",
            "finetuned/predictions.jsonl",
            "scores/finetuned/predictions.jsonl",
        ):
            if (place / name).is_file():
                return f"{path}: a directory; its rows are in {place / name}"
    return f"{path}: a directory, without predictions.jsonl" if path.is_dir() else f"{path}: no such file"


def _row(path: Path, record: Record) -> dict[str, Any]:
    row = record.value
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in FIELDS):
        raise BadInput(f"{path}:{record.line}: question, gold and prediction (texts) are wanted in each row")
    return row


def _show(row: dict[str, Any], verdicts: dict[str, Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(visible(row["question"].strip()), style="bold"))
    for name, verdict in verdicts.items():
        word = said(verdict)
        colour = {"right": "green", "wrong": "red"}.get(word, "yellow")
        by = f"{name}: " if len(verdicts) > 1 else ""
        console.print(
            Text.assemble(by, (word, f"bold {colour}"), f": {visible(verdict.reason)} (sure: {verdict.sure:.0%})")
        )
        table = Table(box=None, pad_edge=False, show_header=False)
        for step in verdict.trace or _values(verdict):
            span = visible(step.span.replace("\n", " "))
            table.add_row(
                Text(step.side, style=SIDES.get(step.side, "")), Text(step.rule, style="dim"), Text(span)
            )
        console.print(table)
    console.print()


def _values(verdict: Verdict) -> list[Step]:
    """Of a judge that tells no rules: what it compared."""
    from glmjobs.marking import Step

    both = {"gold": verdict.gold_value, "prediction": verdict.predicted_value}
    return [Step(side, "is", value) for side, value in both.items() if value]


if __name__ == "__main__":
    raise SystemExit(run_command(main))
