"""Answers by the numbers of statements in the question: (2)(3), and orders of them: (3)<(4)<(2)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import conclude
from glmjobs.marking.question import Question
from glmjobs.marking.sentence import MARKED
from glmjobs.marking.statements import strip_denied

_ORDERED = re.compile("顺序|排列|排序|从[大小高低长短]到")
_NUMBER = re.compile(r"\((\d{1,2})\)")
_WRONG = re.compile(r"错|不(?:正确|对|成立|符合|是)|除了?\s?\(")
_RIGHT = re.compile("(?<!不)(?:正确|成立)")
_BARE = re.compile(r"(?:\(\d{1,2}\)[\s、,;<>=和与}。.]*)+")


@dataclass(frozen=True)
class Numbered(Answer):
    """The numbers named, in the order in which they stand."""

    kind = "numbered statements"
    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return "".join(f"({n})" for n in self.numbers)

    @classmethod
    def read(cls, text: str, question: Question, gold: Answer | None = None) -> Found:
        if gold is None:
            return Found(cls(_numbers(text)), fired=(("bare_numbers", text),))
        found = conclude(text, question, lambda sentence: _said(sentence, question))
        if found.statement is None:
            return Found(None, found.reason, tuple(found.fired))
        return Found(cls(found.statement.items[-1]), fired=tuple(found.fired))

    def equals(self, other: Answer, question: Question) -> Match:
        if not isinstance(other, Numbered):
            return Match(False, "other kind of answer")
        if _ORDERED.search(question.text):
            return Match.of(self.numbers == other.numbers, "order")
        return Match.of(set(self.numbers) == set(other.numbers), "statements")


def is_numbered(gold: str, question: Question) -> bool:
    """Whether a bare gold names numbered statements of the question."""
    named = set(_numbers(gold)) if _BARE.fullmatch(gold) else set()
    return bool(named) and named <= set(_numbers(question.text))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(n) for n in _NUMBER.findall(text)))


def _said(text: str, question: Question) -> list[tuple[int, ...]]:
    """The numbers that a statement names, after its mark where it has one; not those it calls wrong, nor excepts."""
    asks_wrong = bool(_WRONG.search(question.text))
    other = _RIGHT if asks_wrong else _WRONG
    tail = MARKED.split(text if asks_wrong else strip_denied(text))[-1]
    clauses = [c for c in re.split("[,;。]", tail) if not other.search(c)]
    return [found] if (found := _numbers(",".join(clauses))) else []
