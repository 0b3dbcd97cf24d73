"""What speaks for a value of the concluding statement and against it: :data:`PREFERENCES`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from glmjobs.marking.question import Question, pairs
from glmjobs.marking.sentence import MARKED
from glmjobs.marking.tables import Rule
from glmjobs.marking.values.items import Item, Quantity, show

_CUT = re.compile("[,。;、]")
_SUBJECTLESS = re.compile("\\s?(?:也|就|正好|应该?)?(?:是|为|有|等于|得|共|一共|还|剩)")
_TOTAL = re.compile("共|总|合计")
_ONE_OF_THE_GIVENS = re.compile(
    "化[成为]|改写|写[成作]|换算|表示|众数|中位数|最[大小]的?数|最[大小多少高低长短快慢]的是|哪"
)


def local(text: str, item: Item) -> str:
    """The clause around a value."""
    cuts = [m.end() for m in _CUT.finditer(text, 0, item.start)]
    after = _CUT.search(text, item.end)
    return text[(cuts[-1] if cuts else 0) : after.start() if after else len(text)]


def _with_subject(text: str, item: Item) -> str:
    """The clause around a value, with the one before it where it has no subject of its own (是42人)."""
    clause = local(text, item)
    cuts = [0, *(m.end() for m in _CUT.finditer(text, 0, item.start))]
    if len(cuts) > 1 and _SUBJECTLESS.match(clause):
        return text[cuts[-2] : cuts[-1]] + clause
    return clause


@dataclass(frozen=True)
class Candidate:
    """A value of the concluding statement, the ``index``-th of those that are weighed."""

    text: str
    item: Item
    index: int
    question: Question

    @cached_property
    def clause(self) -> str:
        return _with_subject(self.text, self.item)

    @cached_property
    def before(self) -> str:
        return self.text[max(0, self.item.start - 16) : self.item.start]

    @cached_property
    def after(self) -> str:
        return self.text[self.item.end : self.item.end + 40]

    @property
    def asked(self) -> str:
        return self.question.main.clause

    @property
    def number(self) -> Quantity | None:
        return self.item if isinstance(self.item, Quantity) else None

    @cached_property
    def said(self) -> str:
        return self.text[self.item.start : self.item.end]


_NUMBER = re.compile(r"\d[\d./]*")


def _share_of_words(c: Candidate) -> float:
    said = pairs(c.clause)
    return max(len(a.pairs & said) / max(1, len(a.pairs)) for a in c.question.asked)


def _given(c: Candidate) -> bool:
    q = c.number
    if q is None:
        return c.said in c.question.text
    if (q.value, q.units[0].name if q.units else "") not in c.question.givens:
        return False
    return not _ONE_OF_THE_GIVENS.search(c.asked)


def _in_the_asked_clause(c: Candidate) -> bool:
    said = c.number and show(c.number.value) in _NUMBER.findall(c.asked)
    return bool(said) and not _ONE_OF_THE_GIVENS.search(c.asked)


_SO_BEFORE = re.compile(
    "(?<=[^,。;])[,;](?:所以|因此|因而|故|得到?|得出|即|约分后?[得为]|化简后?[得为])[^。;]*$"
)
_GOES_ON = re.compile(
    "(?:[^,。;]{0,8}[,;](?:再|又|还要?|然后)?)?(?:加上?|减去?|除以|乘以|扣除|去掉)|"
    "[^。]{0,30}(?:再|还要?|还需要?)加[^,。;]{0,12}[,;](?:所以|因此)?(?:一共|总共|共|合计)"
)
_SAYS = re.compile(
    "(?:是|为|有|需要?|要|剩下?|共|得|=|:|等于|约|能|可以?|到|花了?|了)\\s?(?:约|大约)?[⟦(\\s]?$"
)

PREFERENCES: tuple[Rule[Candidate], ...] = (
    Rule("shares_words", 4.0, _share_of_words, "梨树有80棵 where 梨树 is asked"),
    Rule("given", -2.5, _given, "原来15颗"),
    Rule("in_the_asked_clause", -2.0, _in_the_asked_clause, "摸出5个才能保证有2个"),
    Rule("so_before", 3.0, lambda c: _SO_BEFORE.search(c.text[: c.item.start]), "可以省8元，所以需要24元"),
    Rule("total", 3.0, lambda c: _TOTAL.search(c.asked) and _TOTAL.search(c.before[-6:]), "一共54晚"),
    Rule("goes_on", -8.0, lambda c: _GOES_ON.match(c.after), "8只减去2只，即6只"),
    Rule("says", 0.5, lambda c: _SAYS.search(c.before), "是9颗"),
    Rule(
        "order",
        0.4,
        lambda c: -c.index if MARKED.search(c.text) and "=" not in c.text else c.index,
        "the last counts most",
    ),
)
"""What speaks for a value and against it: the weights add up."""
