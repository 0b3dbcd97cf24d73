"""One sentence of a solution, and what is known after those before it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

from glmjobs.marking.question import Question, squeeze
from glmjobs.marking.statements import Read, Statement, overlap
from glmjobs.marking.tables import phrase
from glmjobs.marking.values.items import Quantity

BOX = "⟦"
PHRASES = {
    name: phrase(name)
    for name in (
        "marked", "so", "withdrawn", "refused", "check", "remark", "supposed",
        "next_task", "unfinished",
    )
}  # fmt: skip
MARKED, SO = PHRASES["marked"], PHRASES["so"]
_SETS_OUT = re.compile(r"[\s:是为]*(?:根据|首先|因为|由于|已知|设|我们|一开始|先)")


class Effect(Enum):
    """What becomes of a sentence, and of those before it."""

    SKIP = "is talk"
    REPLACE = "takes back what was said, and its rest is the answer"
    OVER = "and what follows it belongs to another task"


@dataclass(frozen=True)
class State:
    """What is known after some sentences."""

    kept: tuple[Statement, ...] = ()
    over: bool = False
    withdrawn: bool = False
    announced: bool = False
    fired: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Sentence:
    """A sentence to be judged, after ``state``."""

    text: str
    state: State
    question: Question
    speaks: Read
    last: bool

    @cached_property
    def marked(self) -> bool:
        """Whether it is marked as the answer, rather than the whole solution is (答：21-12=9，所以…)."""
        tail = MARKED.split(self.text)[-1]
        return tail != self.text and not (_SETS_OUT.match(tail) or ("=" in tail and SO.search(tail)))

    @cached_property
    def near(self) -> float:
        return overlap(self.text, self.question)

    @cached_property
    def items(self) -> list[Any]:
        return self.speaks(self.text)

    @property
    def kept(self) -> tuple[Statement, ...]:
        return self.state.kept


def fits(items: list[Any], question: Question) -> bool:
    """Whether one of the values may have the asked unit."""
    expect = question.main.expect
    if not expect.dims:
        return True
    found = [i for i in items if isinstance(i, Quantity)]
    return not found or any(not i.units or any(u.dim in expect.dims for u in i.units) for i in found)


def says_new(items: list[Any], question: Question) -> bool:
    """Whether one of the quantities is none of the question's."""
    return any(
        isinstance(i, Quantity)
        and (i.value not in question.known if not i.units else (i.value, i.units[0].name) not in question.givens)
        for i in items
    )


def echoes(text: str, question: Question) -> bool:
    """Whether the sentence stands in the question word for word."""
    plain = squeeze(text)
    return len(plain) >= 6 and plain in question.plain
