"""How well answers are marked: this project's judge beside published ways, over labelled rows.

    PYTHONPATH=$PWD python benchmarks/marking.py [FILE.jsonl …] [--by category|file|batch]

Rows have question, gold, prediction and the label ``correct``; without files they are those of tests/marking. Ways:

- judge: glmjobs.marking.
- last number: the last number of both texts is the same (GSM8K's published scripts).
- flexible: lm-evaluation-harness's "flexible-extract" filter of GSM8K: the last match of a number with sign, dollar and
  thousands signs, compared as text after "," and "$" are taken out (EleutherAI, gsm8k.yaml).
- math-verify: parse and verify of the package, where it is installed (pip install math-verify).

False accepts (a wrong answer marked right) and false rejects (a right one marked wrong) stand apart, for they bias an
accuracy in opposite directions.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from glmjobs.scoring.judges import JudgeName, load
from hpc.core.errors import NotFit

Row = dict[str, Any]
Way = Callable[[Row], bool]
LABELLED = Path(__file__).resolve().parents[1] / "tests" / "marking"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")


def _last(text: str) -> str:
    found = _NUMBER.findall(text.replace(",", ""))
    return found[-1] if found else ""


def last_number(row: Row) -> bool:
    """The last number of both."""
    gold, said = _last(row["gold"]), _last(row["prediction"])
    return bool(gold) and bool(said) and float(gold) == float(said)


def _flexible(text: str) -> str:
    found = _FLEXIBLE.findall(text)
    last = next((group for group in found[-1] if group), "") if found else ""
    return re.sub(r"[,$]", "", last).rstrip(".").lower()


def flexible(row: Row) -> bool:
    """lm-evaluation-harness's flexible-extract, for gold and prediction alike."""
    gold, said = _flexible(row["gold"]), _flexible(row["prediction"])
    return bool(gold) and gold == said


def of_judge(name: JudgeName) -> Way:
    """One of the project's judges; a row that it does not mark is a reject.

    Raises:
        NotFit: it needs a package that is not installed.
    """
    judge = load(name)
    return lambda row: judge.mark(row["question"], row["gold"], row["prediction"]).correct


def math_verify_way() -> Way | None:
    """math-verify's, or None where it is not installed."""
    try:
        return of_judge("math-verify")
    except NotFit:
        return None


def read(files: Iterable[Path]) -> list[Row]:
    """The rows of some files, each with its file's name."""
    return [
        {"file": path.stem, **json.loads(line)}
        for path in files
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


def measure(rows: list[Row], way: Way) -> tuple[list[bool], float]:
    """The verdicts, and CPU milliseconds a row."""
    start = time.process_time()
    verdicts = [way(row) for row in rows]
    return verdicts, 1000 * (time.process_time() - start) / max(1, len(rows))


def counts(rows: list[Row], verdicts: list[bool]) -> dict[str, int]:
    """Rows, agreeing ones, false accepts and false rejects."""
    pairs = [(said, row["correct"]) for row, said in zip(rows, verdicts, strict=True)]
    return {
        "rows": len(rows),
        "agree": sum(said == label for said, label in pairs),
        "false accepts": sum(said and not label for said, label in pairs),
        "false rejects": sum(label and not said for said, label in pairs),
    }


def table(rows: list[Row], verdicts: dict[str, list[bool]], by: str) -> list[str]:
    """Markdown: for each group of rows the agreement of each way, with its false accepts and rejects."""
    groups: dict[str, list[int]] = {"all": list(range(len(rows)))}
    for place, row in enumerate(rows):
        groups.setdefault(str(row.get(by, "")), []).append(place)
    lines = ["| rows of | rows | " + " | ".join(verdicts) + " |", "| --- " * (2 + len(verdicts)) + "|"]
    for name, places in groups.items():
        cells = []
        for said in verdicts.values():
            c = counts([rows[p] for p in places], [said[p] for p in places])
            share = 100 * c["agree"] / len(places)
            cells.append(f"{share:.1f} % ({c['false accepts']} / {c['false rejects']})")
        lines.append(f"| {name} | {len(places)} | " + " | ".join(cells) + " |")
    return lines


def main() -> int:
    """Print the table."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("files", nargs="*", type=Path, help="labelled rows (default: tests/marking/*.jsonl)")
    p.add_argument("--by", default="file", choices=("file", "category", "batch"), help="groups of rows")
    args = p.parse_args()
    rows = read(args.files or sorted(LABELLED.glob("*.jsonl")))
    ways: dict[str, Way | None] = {
        "judge": of_judge("meaning"), "last number": last_number, "flexible": flexible,
        "math-verify": math_verify_way(),
    }  # fmt: skip
    verdicts, costs = {}, {}
    for name, way in ways.items():
        if way is None:
            print(f"{name}: not installed, left out", file=sys.stderr)
            continue
        verdicts[name], costs[name] = measure(rows, way)
    print("Agreement with the labels (false accepts / false rejects):\n")
    print("\n".join(table(rows, verdicts, args.by)))
    print("\nCPU ms a row: " + ", ".join(f"{name} {cost:.2f}" for name, cost in costs.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
