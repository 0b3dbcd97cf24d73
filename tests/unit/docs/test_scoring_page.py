"""docs/scoring.md says what the marker does: its examples are run."""

from __future__ import annotations

import re

import pytest

from glmjobs.marking import judge
from tests.support import labelled_rows
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


def test_the_table_of_batches_is_the_manifests_and_the_markers() -> None:
    """`python -m tests.support.labelled_rows` prints the table as it has to be."""
    assert labelled_rows.table() in PAGE


def test_the_first_figures_are_the_manifests() -> None:
    """Rows nobody had seen: the sentences below the table say what the manifest says."""
    batches, together = labelled_rows.MANIFEST["batches"], labelled_rows.MANIFEST["first_measured_together"]
    strangers = {row["batch"] for row in labelled_rows.rows() if row["unseen"]}
    counts = {name: len(labelled_rows.of("batch", name)) for name in strangers}
    agreed = sum(round(counts[name] * batches[name]["first_measured"] / 100) for name in strangers)
    assert together["strangers"] == {"agreed": agreed, "rows": sum(counts.values())}

    later = [
        batch["first_measured"] for name, batch in batches.items() if name not in ("developed", "held_out")
    ]
    theirs = [str(batches[name]["first_measured"]) for name in batches if name in strangers]
    unseen, all_strangers = together["second to twentyfirst"], together["strangers"]
    text = " ".join(PAGE.split())
    for said in (
        f"{percent(unseen)} ({unseen['agreed']:,} of {unseen['rows']:,} rows,",
        f"between {min(later)} and {max(later)} % by batch",
        f"{percent(all_strangers)} of {all_strangers['rows']:,} ({all_strangers['agreed']:,})",
        f"{', '.join(theirs[:-1])} and {theirs[-1]} %",
    ):
        assert said in text


def percent(counted: dict[str, int]) -> str:
    return labelled_rows.percent(100 * counted["agreed"] / counted["rows"])
