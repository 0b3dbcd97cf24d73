"""The labelled rows of tests/marking: what the files hold, where the rows come from, how the marker does on them.

``python -m tests.support.labelled_rows`` prints the table of docs/scoring.md.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable
from typing import Any

from glmjobs.marking import Verdict, judge
from tests.support.paths import REPO

Row = dict[str, Any]

MARKING = REPO / "tests" / "marking"
MANIFEST: dict[str, Any] = json.loads((MARKING / "manifest.json").read_text(encoding="utf-8"))
"""What each file holds, what each batch is and how the marker did on it when it first saw it."""


@functools.cache
def rows() -> list[Row]:
    """Every row, with the name of its ``file``."""
    return [
        {**json.loads(line), "file": path.stem}
        for path in sorted(MARKING.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]


def of(field: str, value: str) -> list[Row]:
    """The rows of a ``file``, of a ``batch`` or by an ``author``."""
    return [row for row in rows() if row[field] == value]


@functools.cache
def _verdict(question: str, gold: str, prediction: str) -> Verdict:
    return judge(question, gold, prediction)


def verdict(row: Row) -> Verdict:
    """What the marker says of a row; asked once, however many tests want to know."""
    return _verdict(row["question"], row["gold"], row["prediction"])


def agreement(labelled: Iterable[Row]) -> float:
    """The share of rows on which the marker's verdict is the label, 0 to 1."""
    agreed = [verdict(row).correct == row["correct"] for row in labelled]
    return sum(agreed) / len(agreed)


def percent(value: float) -> str:
    """As the page writes it: one decimal, and a plain 100."""
    return "100 %" if value == 100 else f"{value:.1f} %"


def table() -> str:
    """The batches with their rows, the agreement first measured and the present one, in Markdown."""
    lines = ["| batch | rows | first measured | now |", "| --- | --- | --- | --- |"]
    for name, batch in MANIFEST["batches"].items():
        about = f" ({batch['about']})" if batch["about"] else ""
        labelled = of("batch", name)
        now = percent(100 * agreement(labelled))
        lines.append(f"| `{name}`{about} | {len(labelled)} | {percent(batch['first_measured'])} | {now} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
