"""What is left of a statement's values when its equations are worked off: of 15-6=9(颗) only 9."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction

from glmjobs.marking.values import units
from glmjobs.marking.values.arithmetic import evaluate
from glmjobs.marking.values.items import Item, Quantity

_RESULT = re.compile(r"[=≈]")
_TAIL_EXPRESSION = re.compile(r"[-+×*÷/()\d.%^ ]+")


def results(text: str, items: list[Item]) -> list[Item]:
    """The items left when equations are worked off: of 15-6=9(颗) only 9 stays, marked as a result."""
    if not _RESULT.search(text) and not _OPERATION.search(text) and not _WITH_UNITS.search(text):
        return list(items)
    kept: list[Item] = []
    for clause_start, clause_end in _clauses(text):
        inside = [i for i in items if clause_start <= i.start < clause_end]
        signs = [m.start() for m in _RESULT.finditer(text, clause_start, clause_end)]
        if not signs:
            kept.extend(_worked(text, inside, clause_end))
            continue
        kept.extend(_right_side(text, inside, signs[-1], clause_end))
    return kept


_OPERATION = re.compile(r"(?:[是有为剩要了共]\s?\(?|^\()\d[\d.]*\s?[-+×*÷]\s?\(?\d")
_WITH_UNITS = re.compile(r"(?:\s?[+]\s?\d[\d.]*\s?[\u4e00-\u9fff]{1,2}(?=[+。,;]|$))+")


def _worked(text: str, items: list[Item], end: int) -> list[Item]:
    """An answer left as arithmetic (还剩168-8千克, 还剩(30-12)米) is its value; 3-5 stays a range."""
    for item in items:
        if not isinstance(item, Quantity):
            continue
        start = item.start - (text[item.start - 1 : item.start] == "(")
        more = _WITH_UNITS.match(text, item.end, end) if item.units else None
        inside = [i for i in items if more and item.start <= i.start < more.end()]
        if (
            more
            and len(inside) > 1
            and all(isinstance(i, Quantity) and i.units == item.units for i in inside)
        ):
            total = sum((i.value for i in inside if isinstance(i, Quantity)), Fraction(0))
            return [
                *(i for i in items if i not in inside),
                replace(item, value=total, end=more.end()),
            ]  # 18米+3米
        tail = _TAIL_EXPRESSION.match(text, start, end)
        if not tail or not _OPERATION.search(text[max(0, start - 2) : tail.end()]):
            continue
        value = evaluate(tail[0].strip())
        if value is None or value <= 0:
            continue
        found, stop = units.match(text, tail.end())
        rest = [i for i in items if i.end <= item.start or i.start >= tail.end()]
        return [*rest, Quantity(value, tuple(found), item.start, max(stop, tail.end()), "plain", -1)]
    return items


def _outside_brackets(text: str, pattern: str) -> list[re.Match[str]]:
    """Matches that are not inside a pair such as (12,18)."""
    inner = [m.span() for m in re.finditer(r"[(\[]\s?\d+(?:\s?,\s?\d+)+\s?[)\]]", text)]
    return [m for m in re.finditer(pattern, text) if not any(a < m.start() < b for a, b in inner)]


def _clauses(text: str) -> list[tuple[int, int]]:
    cuts = [
        m.end()
        for m in _outside_brackets(text, r"[;。\n]|[,、](?!\d{3}(?!\d))|或者?|和(?=\s?⟦?\s?[a-zA-Z]\w?\s?=)")
    ]
    starts = [0, *cuts]
    return list(zip(starts, [*cuts, len(text)], strict=True))


_OPERATED = re.compile(r"\d\s*[-+×*÷/]\s*\(?\d")


def _right_side(text: str, items: list[Item], sign: int, end: int) -> list[Item]:
    right = [i for i in items if i.start > sign]
    if not right:
        return []
    first = right[0]
    gap = text[sign + 1 : first.start].strip()
    tail = _TAIL_EXPRESSION.match(text, sign + 1, end)
    if tail and _OPERATED.search(tail[0]) and isinstance(first, Quantity):
        value = evaluate(tail[0].strip())
        if value is not None and (value.denominator != 1 or first.value != value):
            found, stop = units.match(text, tail.end())
            after = [i for i in right if i.start >= tail.end()]
            whole = Quantity(value, tuple(found), sign + 1, stop, "plain", -1, result=True)
            return [whole, *after]
    if isinstance(first, Quantity) and gap in ("", "-", "(", "⟦", "约"):
        first = replace(first, result=True, about=text[sign] == "≈")
    return [first, *right[1:]]
