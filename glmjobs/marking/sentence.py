"""One sentence of a solution, and what is known after those before it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from glmjobs.marking.question import Question, squeeze
from glmjobs.marking.statements import Rank, Read, Statement, overlap
from glmjobs.marking.tables import phrase
from glmjobs.marking.values.items import Quantity

BOX = "⟦"
PHRASES = {
    name: phrase(name)
    for name in (
        "marked", "so", "only_concludes", "withdrawn", "refused", "check", "remark", "marking_claim", "supposed",
        "reason", "explanation", "other_way", "next_task", "unfinished", "ends_well",
        "about_a_claim", "difference",
    )
}  # fmt: skip
MARKED, SO = PHRASES["marked"], PHRASES["so"]


class Effect(Enum):
    """What becomes of a sentence, and of those before it."""

    SKIP = "is talk"
    CHECK = "and what follows it is a check"
    EXPLAIN = "and what follows it is an explanation"
    DROP = "takes back what was said, and is no answer"
    REPLACE = "takes back what was said, and its rest is the answer"
    KEEP = "is a statement"
    OVER = "and what follows it belongs to another task"


@dataclass(frozen=True)
class State:
    """What is known after some sentences."""

    kept: tuple[Statement, ...] = ()
    stance: Effect = Effect.KEEP
    withdrawn: bool = False
    announced: bool = False
    after: tuple[str, ...] = ()
    fired: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Sentence:
    """A sentence to be judged, after ``state``."""

    text: str
    state: State
    question: Question
    speaks: Read
    index: int
    last: bool

    @cached_property
    def marked(self) -> list[re.Match[str]]:
        return list(MARKED.finditer(self.text))

    @cached_property
    def near(self) -> float:
        return overlap(self.text, self.question)

    @cached_property
    def items(self) -> list[Any]:
        return self.speaks(self.text)

    @property
    def kept(self) -> tuple[Statement, ...]:
        return self.state.kept

    @cached_property
    def explains(self) -> bool:
        """Whether an answer stands already, and this sentence concludes nothing anew."""
        return not self.marked and _answered(self.state, self.question, self.index)


def _answered(state: State, question: Question, index: int) -> bool:
    """Whether an answer stands already: a marked one, or the first sentence in the question's words."""
    first = state.kept[0] if state.kept else None
    if first is None or any(s.rank is Rank.MARKED for s in state.kept):
        return first is not None
    if any(s.rank >= Rank.SO_RESTATED and s.overlap >= 0.4 and fits(s.items, question) for s in state.kept):
        return True
    said_first = len(state.kept) == 1 and (
        first.rank >= Rank.RESTATED
        or (index == 1 and (first.overlap >= 0.2 or isinstance(first.items[0], bool)))
    )
    return said_first and fits(first.items, question)


def fits(items: list[Any], question: Question) -> bool:
    """Whether one of the values may have the asked unit."""
    expect = question.main.expect
    if not expect.units and expect.dim not in ("area", "volume"):  # 求面积: a length is a step towards it
        return True
    found = [i for i in items if isinstance(i, Quantity)]
    return not found or any(not i.units or any(u.dim in expect.dims for u in i.units) for i in found)


def says_new(items: list[Any], question: Question) -> bool:
    """Whether one of the quantities is none of the question's."""
    return any(isinstance(i, Quantity) and i.value not in question.known for i in items)


def echoes(text: str, question: Question) -> bool:
    """Whether the sentence stands in the question word for word."""
    plain = squeeze(text)
    return len(plain) >= 6 and plain in question.plain
