"""Which way round: 3/4 ○ 2/3. What is said of two sides is read in the question's order."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from fractions import Fraction

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import conclude
from glmjobs.marking.question import Question
from glmjobs.marking.values.items import Quantity
from glmjobs.marking.values.scan import scan

_BLANK = re.compile(r"[○〇□◯]|\(\s?\)|_{2,}")
_ASKED = re.compile("比较.{0,12}大小|填.{0,6}(?:[><]|大于|小于)|[○〇◯]")
_SIGN = re.compile("(大于|>)|(小于|<)|(等于|相等|一样大|=)")
_BARE = re.compile(r"[\s(\"⟦]*(?:填|选|是|应?填)?[:\"]?\s?(大于|小于|等于|[><=])号?[\s)\"⟧。]*")
_TURNED = {"<": ">", ">": "<"}


@dataclass(frozen=True)
class Relation(Answer):
    """>, < or =, in the question's order."""

    kind = "relation"
    sign: str

    def __str__(self) -> str:
        return self.sign

    @classmethod
    def read(cls, text: str, question: Question, gold: Answer | None = None) -> Found:
        if gold is None and (said := relation(text, question)):
            return Found(cls(said), fired=(("relation", text),))
        found = conclude(text, question, lambda t: [s] if (s := relation(t, question)) else [])
        if found.statement is None:
            return Found(None, found.reason, tuple(found.fired))
        return Found(cls(str(found.statement.items[0])), fired=tuple(found.fired))

    def equals(self, other: Answer, question: Question) -> Match:
        return Match.of(self == other, "relation")


def relation(text: str, question: Question) -> str:
    """The relation a statement puts between the question's two sides, in the question's order; "" where none."""
    if not _ASKED.search(question.text):
        return ""
    text = text.replace("比", "较")  # 0.5比2/3小 is no ratio here
    bare = _BARE.fullmatch(text)
    if bare:
        return {"大于": ">", "小于": "<", "等于": "="}.get(bare[1], bare[1])
    sides = _sides(question)
    if sides is None:
        return ""
    found = [i for i in scan(text) if isinstance(i, Quantity)]
    for left, right in reversed(list(itertools.pairwise(found))):
        pair = (_size(left), _size(right))
        sign = _between(text, left, right) if pair in (sides, sides[::-1]) else ""
        if sign:
            return sign if pair == sides else _TURNED.get(sign, sign)
    greater = re.search("(?:更|最|较较)([大小])|([大小])(?:一些|一点)", text)
    named = {_size(i) for i in found} & set(sides)
    if greater and len(named) == 1 and sides[0] != sides[1]:
        return ">" if (named == {sides[0]}) == ((greater[1] or greater[2]) == "大") else "<"
    return ""


def _sides(question: Question) -> tuple[Fraction, Fraction] | None:
    """What stands left and right of the one blank (3/4 ○ 2/3), or the two values to compare."""
    found = [i for i in scan(question.text) if isinstance(i, Quantity)]
    filled = [
        pair
        for blank, pair in itertools.product(_BLANK.finditer(question.text), itertools.pairwise(found))
        if 0 <= blank.start() - pair[0].end <= 1 and 0 <= pair[1].start - blank.end() <= 1
    ]
    if len(filled) > 1:
        return None
    found = list(filled[0]) if filled else found
    return (_size(found[0]), _size(found[1])) if len(found) == 2 else None


def _size(item: Quantity) -> Fraction:
    return item.value * (item.units[0].factor if item.units else 1)


def _between(text: str, left: Quantity, right: Quantity) -> str:
    middle, after = text[left.end : right.start], text[right.end : right.end + 3]
    sign = _SIGN.search(middle)
    if sign and len(middle) <= 8:
        return ">" if sign[1] else "<" if sign[2] else "="
    if "较" in middle and len(middle) <= 4:
        compared = re.match("要?更?([大多长重高]|[小少短轻低])", after)
        return "" if not compared else ">" if compared[1] in "大多长重高" else "<"
    return ""
