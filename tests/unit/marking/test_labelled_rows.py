"""The marker against labelled rows (tests/marking): at least 97 % of a careful marker's verdicts."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from glmjobs.marking import answer_type, judge
from tests.support.paths import MARKING

BATCHES = sorted(MARKING.glob("*.jsonl"))
WANTED = 0.97


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("path", BATCHES, ids=[p.stem for p in BATCHES])
def test_the_verdicts_are_a_careful_markers(path: Path) -> None:
    labelled = rows(path)
    missed = defaultdict(list)
    for row in labelled:
        verdict = judge(row["question"], row["gold"], row["prediction"])
        if verdict.correct != row["correct"]:
            missed[row["category"]].append(
                f"{row['prediction']!r} should be {'right' if row['correct'] else 'wrong'} ({row['why']}): {verdict}"
            )
    wrong = sum(map(len, missed.values()))
    listing = "\n".join(f"{category}:\n  " + "\n  ".join(found) for category, found in missed.items())
    agreement = 1 - wrong / len(labelled)
    assert agreement >= WANTED, f"{agreement:.2%} of {len(labelled)} rows\n{listing}"


def test_the_labelled_set_is_large_and_balanced() -> None:
    labelled = [row for path in BATCHES for row in rows(path)]
    pairs = {(r["question"], r["gold"], r["prediction"]) for r in labelled}
    right = sum(r["correct"] for r in labelled)
    assert len(pairs) == len(labelled) >= 300
    assert 0.3 <= right / len(labelled) <= 0.7
    by_category = defaultdict(set)
    for row in labelled:
        by_category[row["category"]].add(row["correct"])
    assert len(by_category) >= 40
    assert {c for c, verdicts in by_category.items() if len(verdicts) < 2} == set()


def test_a_marker_that_reads_the_last_number_would_fail_here() -> None:
    """The set is able to be lost: the published way (the last number of the text) agrees with far fewer rows."""

    def last(text: str) -> str:
        found = re.findall(r"-?\d+(?:\.\d+)?", text.replace(",", ""))
        return found[-1] if found else ""

    labelled = [row for path in BATCHES for row in rows(path)]
    agreed = sum((last(r["gold"]) == last(r["prediction"]) != "") == r["correct"] for r in labelled)
    assert agreed / len(labelled) < 0.8


def test_a_changed_gold_is_not_accepted() -> None:
    """Right predictions are wrong beside a gold with another last digit, where the gold is a number."""
    accepted, tried = [], 0
    for row in (row for path in BATCHES for row in rows(path) if row["correct"]):
        digit = re.search(r"\d(?=\D*$)", row["gold"])
        if not digit or answer_type(row["gold"], row["question"]) in (
            "choice",
            "yes/no",
            "text",
            "expression",
        ):
            continue
        whole = re.findall(r"[\d.]+", row["gold"])[-1]
        if row["gold"].count(whole) > 1 or re.search("[,，]", row["gold"][digit.end() :].rstrip("\n ，。")):
            continue  # stated twice, or followed by an answer in words: the changed gold contradicts itself
        if re.search("也就是|即|\\d个[,，]分别是", row["gold"]):
            continue  # stated twice, in two units or counted and listed: the changed gold contradicts itself
        if re.search(r"[。，,](?:因为|由于|首先|前\d天)", row["gold"]):
            continue  # the last digit is the reason's, not the answer's
        if "循环" in row["question"]:
            continue  # 0.333… is as many digits as one cares to write
        gold = row["gold"][: digit.start()] + str((int(digit[0]) + 3) % 10) + row["gold"][digit.end() :]
        tried += 1
        if judge(row["question"], gold, row["prediction"]).correct:
            accepted.append((gold, row["prediction"]))
    assert tried >= 700
    assert not accepted
