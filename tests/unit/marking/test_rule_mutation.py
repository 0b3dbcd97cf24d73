"""Rules earn their place: each is switched off in turn, and verdicts have to flip (tests/support/rule_mutation.py)."""

from __future__ import annotations

import datetime

import pytest

from glmjobs.marking.tables import RULES
from tests.support.labelled_rows import rows
from tests.support.rule_mutation import correct, mutate

UNDECIDED = 0.25
"""The share of rules that may decide no labelled row: those for real answers have theirs in test_real_answers.py."""
REAL = {"so_in_its_words"}
"""Rules that labelled rows alone would speak against; real answers, and two rows of test_real_answers.py, need them."""


def test_a_rule_that_is_switched_off_decides_nothing() -> None:
    row = {"question": "还剩几颗？", "gold": "9颗", "prediction": "还剩9颗。\n不对。"}
    (found,) = mutate(["takes_back"], [{**row, "correct": False}])
    assert found == ("takes_back", 1, 1, 1)
    assert not correct(row), "it is on again"


def test_a_sample_of_the_day() -> None:
    """Three rules on an eighth of the rows: none makes verdicts worse than it makes them better."""
    day = datetime.date.today().toordinal()
    chosen = sorted(RULES)[day % 7 :: max(1, len(RULES) // 3)][:3]
    for found in mutate(chosen, rows()[day % 8 :: 8]):
        assert found.id in REAL or found.flips <= 2 * found.worse + 1, found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_rule() -> None:
    table = list(mutate(sorted(RULES), rows()))
    idle = [found.id for found in table if not found.flips]
    harmful = [found for found in table if found.flips > 2 * found.worse + 1 and found.id not in REAL]
    assert not harmful
    assert len(idle) <= UNDECIDED * len(table), idle
