"""What is left of a statement's values when its equations are worked off: of 15-6=9(颗) only 9."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

from glmjobs.marking.values import units
from glmjobs.marking.values.arithmetic import evaluate, prefix
from glmjobs.marking.values.items import Item, Quantity

_RESULT = re.compile(r"[=≈]")
_OPERATION = re.compile(r"(?:[是有为剩要了共]\s?\(?|^\()\d[\d.]*\s?[-+×*÷]\s?\(?\d|\d[\u4e00-\u9fff]{1,2}\+\d")
_OPERATED = re.compile(r"\d\s?[-+×*÷/]\s?\(?\d")
_SUM = re.compile(r"[\d.() ]+[+×*÷][-+×*÷/\d.() ]+")
"""An answer that is left to be worked out: 25÷48."""
_CLAUSE = re.compile(r"[;。\n]|[,、](?!\d{3}(?!\d))|或者?|和(?=\s?⟦?\s?[a-zA-Z]\w?\s?=)")
_PAIR = re.compile(r"[(\[]\s?\d+(?:\s?,\s?\d+)+\s?[)\]]")
"""A pair such as (12,18), whose comma ends no clause."""


def results(text: str, items: list[Item]) -> list[Item]:
    """The items left when equations are worked off: of 15-6=9(颗) only 9 stays, marked as a result."""
    plain = text.rstrip(" 。")
    if _SUM.fullmatch(plain) and (value := evaluate(plain)) and not ("÷" in plain and value.denominator == 1):
        return [Quantity(value, (), 0, len(plain), "fraction" if value.denominator > 1 else "plain", -1)]
    if not _RESULT.search(text) and not _OPERATION.search(text):
        return list(items)
    pairs = [m.span() for m in _PAIR.finditer(text)]
    cuts = [m.end() for m in _CLAUSE.finditer(text) if not any(a < m.start() < b for a, b in pairs)]
    kept: list[Item] = []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        signs = [m.end() for m in _RESULT.finditer(text, start, end)]
        inside = [i for i in items if (signs[-1] if signs else start) <= i.start < end]
        if signs and inside and isinstance(inside[0], Quantity):
            inside[0] = replace(inside[0], result=True)
        kept += _worked(text, inside, end, bool(signs))
    return kept


def _worked(text: str, items: list[Item], end: int, right: bool) -> list[Item]:
    """An answer left as arithmetic (还剩168-8千克, =3×4) is its value; 3-5 stays a range."""
    operation = _OPERATED if right else _OPERATION
    for item in items[:1] if right else items:
        start = item.start - (text[item.start - 1 : item.start] == "(")
        if not isinstance(item, Quantity) or not operation.search(text, max(0, start - 2), min(end, start + 60)):
            continue
        value, size = prefix(text[start : min(end, start + 60)])
        if size and value > 0 and operation.search(text, max(0, start - 2), start + size):
            found, stop = units.match(text, start + size)
            whole = Quantity(value, tuple(found), item.start, max(stop, start + size), "plain", -1, result=right)
            return [*(i for i in items if i.start < item.start), whole, *(i for i in items if i.start >= whole.end)]
    for first, second in pairwise(i for i in items if isinstance(i, Quantity)):
        if text[first.end : second.start].strip() == "+" and first.units == second.units:  # 18米+3米
            whole = replace(first, value=first.value + second.value, end=second.end)
            return [whole, *(i for i in items if i not in (first, second))]
    return items
