"""docs/scoring.md says what the marker does: its examples are run."""

from __future__ import annotations

import json
import re

import pytest

from glmjobs.marking import judge
from tests.support.pages import code_blocks
from tests.support.paths import REPO

PAGE = (REPO / "docs" / "scoring.md").read_text(encoding="utf-8")
EXAMPLES = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in PAGE.splitlines()
    if re.search(r"\| (?:right|wrong) \|$", line)
]


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 30
    assert {row[-1].strip(" |") for row in EXAMPLES} == {"right", "wrong"}


@pytest.mark.parametrize("row", EXAMPLES, ids=["-".join(row[1:3]) for row in EXAMPLES])
def test_an_example(row: list[str]) -> None:
    question, gold, prediction, verdict = row
    assert judge(question, gold, prediction).correct == (verdict.strip(" |") == "right")


def test_the_code_runs() -> None:
    code = code_blocks(REPO / "docs" / "scoring.md")
    assert code
    for block in code:
        exec(block, {})


def test_the_row_counts_are_those_of_the_files() -> None:
    stated = re.findall(r"^\| `(\w+)`[^|]*\| (\d+) \|.*\| ([\d.]+) % \|$", PAGE, re.MULTILINE)
    files = sorted((REPO / "tests" / "marking").glob("*.jsonl"))
    assert sorted(name for name, _, _ in stated) == [f.stem for f in files]
    for name, count, agreement in stated:
        path = REPO / "tests" / "marking" / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        agreed = sum(judge(r["question"], r["gold"], r["prediction"]).correct == r["correct"] for r in rows)
        assert len(rows) == int(count)
        assert round(100 * agreed / len(rows), 1) == float(agreement)
