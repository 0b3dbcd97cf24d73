"""Labelled rows with characters lost, doubled, swapped and mixed in: no rule raises on any of them."""

from __future__ import annotations

import random

import pytest

from glmjobs.marking import judge
from tests.support.labelled_rows import rows

PIECES = [
    *"0123456789./:%^√±()=-一百万亿又分之点半余\\{}$⟦⟧\n，。、|#", "\ud800", "\u0307", "答：", "所以", "\\frac{",
    "\\boxed{", "####", "不对，", "<b>",
]  # fmt: skip
ROUNDS = 20_000


def mutated(text: str, other: str, chance: random.Random) -> str:
    """A text after up to 12 changes."""
    found = list(text)
    for _ in range(chance.randrange(13)):
        at, kind = chance.randrange(len(found) + 1), chance.randrange(5)
        if kind == 0:
            del found[at : at + chance.randrange(1, 4)]
        elif kind == 1:
            found.insert(at, chance.choice(PIECES))
        elif kind == 2:
            found[at:at] = found[at : at + chance.randrange(12)]
        elif kind == 3:
            start = chance.randrange(len(other) + 1)
            found[at:at] = other[start : start + chance.randrange(24)]
        else:
            found = found[at:] + found[:at]
    return "".join(found)


def failures(rounds: int, seed: int) -> list[tuple[str, tuple[str, str, str]]]:
    """The errors that rules raised, with the three texts."""
    chance, found = random.Random(seed), []
    labelled = rows()
    for _ in range(rounds):
        row, other = chance.choice(labelled), chance.choice(labelled)
        question, gold, prediction = (
            mutated(row[name], other[name], chance) for name in ("question", "gold", "prediction")
        )
        verdict = judge(question, gold, prediction)
        if verdict.status == "failed":
            found.append((verdict.reason, (question, gold, prediction)))
    return found


def test_no_rule_raises_on_some() -> None:
    assert not failures(200, 1)


def test_a_day_in_two_scripts_is_no_day() -> None:
    assert judge("几月几日开幕？", "4月5日", "43一月1一日").status == "marked"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_rule_raises_on_twenty_thousand() -> None:
    assert not failures(ROUNDS, 2)
