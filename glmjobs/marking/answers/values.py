"""Values: one, or several parts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from glmjobs.marking import compare, parts
from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.answers.names_said import same_winner
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import Conclusion, conclude
from glmjobs.marking.parts import Part
from glmjobs.marking.question import Expect, Question
from glmjobs.marking.select import select
from glmjobs.marking.statements import Rank, Statement, values
from glmjobs.marking.values.items import Item, Quantity

_OWED = re.compile("(?:欠|亏损?)了?$")


def _in_unit(question: Question, gold: Quantity) -> Question:
    """The question in the gold's unit, where it names one of another dimension (体积是多少平方厘米)."""
    dims = {u.dim for u in gold.units}
    if not dims or not question.main.expect.dims or dims & question.main.expect.dims:
        return question
    return replace(question, asked=[replace(question.main, expect=Expect(units=gold.units))])


@dataclass(frozen=True)
class Values(Answer):
    """``parts``, one where one value is asked; ``statement``: what says so, of ``conclusion``.

    ``question``: as the gold reads it; ``rivals``: the statement offers competing values.
    """

    kind = "values"
    parts: tuple[Part, ...]
    statement: Statement
    conclusion: Conclusion
    question: Question
    several: bool = False
    rivals: bool = False

    def __str__(self) -> str:
        return "，".join(map(str, self.parts))

    @property
    def one(self) -> Item:
        """The (only) value."""
        return self.parts[0].value

    @classmethod
    def read(cls, text: str, question: Question, gold: Answer | None = None) -> Found:
        asked = gold.question if isinstance(gold, Values) else question
        found = conclude(text, asked, lambda t: values(t, asked, asked.kind), gold=gold is None)
        fired = tuple(found.fired)
        if found.statement is None:
            return Found(None, found.reason, fired)
        sure = 0.6 if found.statement.rank <= Rank.SO else 0.9 if found.statement.rank < Rank.MARKED else 1.0
        if isinstance(gold, Values) and gold.several:
            mine = parts.predicted_parts(asked, found, list(gold.parts))
            answer = cls(tuple(mine), found.statement, found, asked, several=True)
            return Found(answer, "", fired, min(sure, 0.9))
        if gold is None:
            asked = parts.with_names(asked, found)
            if several := parts.gold_parts(asked, found):
                return Found(
                    cls(tuple(several), found.statement, found, asked, several=True), "", fired, sure
                )
        chosen = select(found.statement.text, found.statement.items, asked)
        fired += chosen.fired
        if gold is None and isinstance(chosen.item, Quantity):
            asked = _in_unit(asked, chosen.item)
        answer = cls(
            (Part("", asked.main, chosen.item),), found.statement, found, asked, rivals=chosen.rivals
        )
        return Found(answer, "", fired, sure if chosen.margin >= 1 else min(sure, 0.5))

    def equals(self, other: Answer, question: Question) -> Match:
        if not isinstance(other, Values):
            return Match(False, "other kind of answer")
        if self.several:
            return self._all_parts(other)
        mine = other.one
        if isinstance(mine, Quantity) and _OWED.search(other.statement.text[: mine.start]):
            mine = replace(mine, value=-mine.value)
        match = compare.items(self.one, mine, self.question)
        if not match.same and not question.labels and (asked := parts.wanted(self.question)) >= 2:
            # the gold has one of what is asked
            told = parts.gather(self.question, other.conclusion, asked)
            match = next((m for p in told if (m := compare.items(self.one, p.value, self.question)).same), match)
        if match.same and other.rivals:
            return Match(False, "competing answers")
        if match.same and not same_winner(self.question, self.statement.text, other.conclusion.source):
            return Match(False, "other name")
        return match

    def _all_parts(self, other: Values) -> Match:
        gold, mine = self.parts, other.parts
        if len(mine) < len(gold):
            return Match(False, "a part is missing")
        if all(p.name for p in (*gold, *mine)):
            named = {p.name: p for p in mine}
            for part in gold:
                if part.name not in named:
                    return Match(False, f"{part.name} is missing")
                if not self._same(part, named[part.name]):
                    return Match(False, f"{part.name} differs")
            return Match(True, "every part agrees")
        if parts.in_order(self.question, other.statement):
            same = all(self._same(g, p) for g, p in zip(gold, mine, strict=False))
        else:
            same = self._pair_off(list(mine))
        same = same and len(mine) == len(gold)
        return Match(same, "every part agrees" if same else "a part differs")

    def _pair_off(self, left: list[Part]) -> bool:
        """Whether the parts pair off in some order."""
        for part in self.parts:
            match = next((p for p in left if self._same(part, p)), None)
            if match is None:
                return False
            left.remove(match)
        return True

    def _same(self, gold: Part, mine: Part) -> bool:
        return compare.items(gold.value, mine.value, replace(self.question, asked=[gold.asked])).same
