"""Values: one, or several parts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from glmjobs.marking import compare, directions, parts
from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.answers.names_said import same_winner
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import Conclusion, conclude
from glmjobs.marking.part import Part
from glmjobs.marking.preferences import local
from glmjobs.marking.question import Question
from glmjobs.marking.select import select
from glmjobs.marking.statements import Rank, Statement, values
from glmjobs.marking.tables import phrase
from glmjobs.marking.values.items import Item, Quantity, Ratio, Remainder

_LIST = re.compile(r"\d+(?:\.\d+)?(?:\s?、\s?\d+(?:\.\d+)?)+")
_PRODUCT = re.compile(r"\d{1,9}(?:\^\d{1,2})?(?:\s?[×*·]\s?\d{1,9}(?:\^\d{1,2})?)+")
_FACTOR = re.compile(r"(\d+)(?:\^(\d+))?")
_OWED = phrase("owed")


@dataclass(frozen=True)
class Values(Answer):
    """``parts``, one where one value is asked; ``statement``: what says so, of ``conclusion``.

    ``question``: as the gold reads it; ``rivals``: the statement offers competing values; ``factors``: prime factors,
    where they are asked.
    """

    kind = "values"
    parts: tuple[Part, ...]
    statement: Statement
    conclusion: Conclusion
    question: Question
    several: bool = False
    rivals: bool = False
    factors: tuple[int, ...] = ()

    def __str__(self) -> str:
        return "×".join(map(str, self.factors)) or "，".join(map(str, self.parts))

    @property
    def one(self) -> Item:
        """The (only) value."""
        return self.parts[0].value

    @property
    def local(self) -> str:
        """The clause around it."""
        return local(self.statement.text, self.one)

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
        if chosen.item is None:
            return Found(None, "no value in the conclusion", fired)
        item = _asked_half(chosen.item, asked)
        if isinstance(item, Ratio) and directions.turned_round(local(found.statement.text, item), asked):
            item = replace(item, terms=item.terms[::-1])
        factors = _prime_factors(text) if "质因数" in asked.text else ()
        listed = _LIST.fullmatch(found.statement.text.strip(" 。.")) and not re.search(
            "规律|数列|填", asked.text
        )
        rivals = chosen.rivals or bool(listed and gold is not None)
        answer = cls((Part("", asked.main, item),), found.statement, found, asked, False, rivals, factors)
        return Found(answer, "", fired, sure if chosen.margin >= 1 else min(sure, 0.5))

    def equals(self, other: Answer, question: Question) -> Match:
        if not isinstance(other, Values):
            return Match(False, "other kind of answer")
        if self.factors:
            return Match.of(
                self.factors == other.factors and all(map(_is_prime, other.factors)), "prime factors"
            )
        if self.several:
            return self._all_parts(other)
        if isinstance(self.one, Remainder) != isinstance(other.one, Remainder):
            return Match(False, "a remainder is no single value")
        match = compare.items(self.one, other.one, self.question)
        if not match.same and (owed := self._owed(other)):
            match = compare.items(self.one, owed, self.question)
        return (self._contradicted(other) or match) if match.same else match

    def _owed(self, other: Values) -> Quantity | None:
        """还欠5元 is -5元, where the gold is negative."""
        mine, theirs = self.one, other.one
        if (
            not isinstance(mine, Quantity)
            or not isinstance(theirs, Quantity)
            or mine.value >= 0
            or theirs.value <= 0
        ):
            return None
        return (
            replace(theirs, value=-theirs.value)
            if _OWED.search(other.statement.text[: theirs.start])
            else None
        )

    def _contradicted(self, other: Values) -> Match | None:
        """What speaks against an equal value: the other direction, another name, a competing answer, vagueness."""
        if directions.opposite(other.local, self.question):
            return Match(False, "opposite comparison")
        said = other.conclusion.source or other.statement.text
        if not same_winner(self.question, self.statement.text, said):
            return Match(False, "other name")
        if other.rivals:
            return Match(False, "competing answers")
        mine, theirs = self.one, other.one
        vague = isinstance(theirs, Quantity) and theirs.vague and theirs.places == 0
        if vague and not (isinstance(mine, Quantity) and mine.vague):
            return Match(False, "not an exact value")
        return None

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
        same = len(mine) == len(gold)
        if parts.in_order(self.question, other.statement):
            same = same and all(self._same(g, p) for g, p in zip(gold, mine, strict=False))
        else:
            same = same and self._pair_off(list(mine))
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


def _asked_half(item: Item, question: Question) -> Item:
    """Of 3……2 the part that is asked, where only one is."""
    clause = question.main.clause
    if not isinstance(item, Remainder) or not re.search("[多少几]", clause):
        return item
    if re.search("商.*余|=\\s*[?_(]?|计算", clause) or len(question.asked) > 1:
        return item
    rest = re.search("余|剩|多出", clause)
    if not rest and not question.main.expect.units and "商" not in clause:
        return item
    value = item.remainder if rest else item.quotient
    return Quantity(value, (), item.start, item.end)


def _prime_factors(text: str) -> tuple[int, ...]:
    """The factors of the last product in a text, powers written out, in order of size; () where there is none."""
    found = _PRODUCT.findall(text)
    last = _FACTOR.finditer(found[-1]) if found else ()
    return tuple(sorted(int(m[1]) for m in last for _ in range(min(int(m[2] or 1), 99))))


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, int(n**0.5) + 1))
