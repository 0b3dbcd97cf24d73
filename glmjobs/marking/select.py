"""Which of a statement's values is the asked one: the pool is narrowed by its form, then :data:`PREFERENCES` weigh."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

from glmjobs.marking import compare
from glmjobs.marking.preferences import PREFERENCES, Candidate
from glmjobs.marking.question import RATES, TIMES, Kind, Question
from glmjobs.marking.sentence import MARKED
from glmjobs.marking.statements import strip_denied
from glmjobs.marking.tables import phrase
from glmjobs.marking.values.items import Item, Quantity, Ratio

AnItem = TypeVar("AnItem", bound=Item)

UNRIVALLED = 9.0
"""How far ahead a value is that is the only one."""


@dataclass(frozen=True)
class Selection:
    """The asked value, whether the statement offers competing ones, the rules that spoke, how far it was ahead."""

    item: Item
    rivals: bool = False
    fired: tuple[tuple[str, str], ...] = ()
    margin: float = UNRIVALLED


def select(text: str, items: list[Item], question: Question) -> Selection:
    """The asked value among ``items`` of a statement."""
    plain = strip_denied(text)
    pool = boxed(text, items) or _after_marker(text, items) or items
    if (solved := solutions(plain, pool)) and (solved[-1] is pool[-1] or "方程" in question.text):
        pool = solved[-1:]
    for keep in (_outside_brackets, _not_supposed):
        pool = keep(plain, pool, question) or pool
    fitting = list(_fitting(pool, question))
    if total := _counted_together(plain, fitting, question):
        return Selection(total, fired=(("counted_together", str(total)),))
    if len(fitting) > 1 and _EQUATIONS.fullmatch(plain):
        # 3吨=3000千克，3000+50=3050千克
        found = Selection(fitting[-1], fired=(("end_of_equations", str(fitting[-1])),))
    elif len(fitting) == 1:
        found = Selection(fitting[0], fired=(("only_one_fits", str(fitting[0])),))
    else:
        found = _best(plain, fitting or pool, question)
    rivals = isinstance(found.item, Quantity) and competing(plain, found.item, items, question)
    return replace(found, rivals=rivals)


def _best(text: str, pool: list[Item], question: Question) -> Selection:
    scored = []
    for index, item in enumerate(pool):
        c = Candidate(text, item, index, question)
        fired = [
            (rule.id, rule.effect * float(held if isinstance(held, (int, float)) else 1))
            for rule in PREFERENCES
            if (held := rule.when(c))
        ]
        scored.append((sum(weight for _, weight in fired), index, fired))
    scored.sort(key=lambda s: s[:2], reverse=True)
    margin = scored[0][0] - scored[1][0] if len(scored) > 1 else UNRIVALLED
    said = tuple(
        (id, f"{pool[index]} {weight:+.1f}") for _, index, fired in scored[:2] for id, weight in fired
    )
    return Selection(pool[scored[0][1]], fired=said, margin=margin)


# The pool is narrowed; where nothing would be left, it stays as it is


def boxed(text: str, items: list[Item]) -> list[Item]:
    """The values in boxes."""
    spans = [m.span() for m in re.finditer("⟦[^⟦⟧]*⟧", text)]
    return [i for i in items if any(start <= i.start < end for start, end in spans)]


def _after_marker(text: str, items: list[Item]) -> list[Item]:
    marks = list(MARKED.finditer(text))
    return [i for i in items if i.start >= marks[-1].end() - 1] if marks else []


def _outside_brackets(text: str, pool: list[Item], question: Question) -> list[Item]:
    return [i for i in pool if text.count("(", 0, i.start) <= text.count(")", 0, i.start)]


_SUPPOSED = re.compile("(?:(?:如果|假如|要是|倘若|若是|假使)[^,。;]*,?|(?:为了?|要)使)[^,。;]*$")


def _not_supposed(text: str, pool: list[Item], question: Question) -> list[Item]:
    return [i for i in pool if not _SUPPOSED.search(text[: i.start])]


_EQUALS = re.compile(r"(?<![\d)a-zA-Z])[a-zA-Z]\d?\s?[=≈]\s?$")


def solutions(text: str, items: Sequence[AnItem]) -> list[AnItem]:
    """The items that an unknown equals (x=5, but not 3x=15)."""
    return [i for i in items if _EQUALS.search(text[max(0, i.start - 6) : i.start])]


def _fitting(pool: Sequence[Item], question: Question) -> Sequence[Item]:
    """Values in the asked dimension; where none is, those without a unit."""
    if question.kind in TIMES:
        return pool
    if question.kind is Kind.RATIO:
        return [i for i in pool if isinstance(i, Ratio)]
    quantities = [i for i in pool if isinstance(i, Quantity)]
    if question.kind in RATES:
        bare = [i for i in quantities if not i.units]
        return [i for i in quantities if i.form == "percent"] or bare
    expect = question.main.expect
    if not expect.dim or not quantities:
        return pool
    dims = compare.MONEY if expect.dim in compare.MONEY else expect.dims
    same = [i for i in quantities if any(u.dim in dims for u in i.units)]
    new = [i for i in quantities if not i.units and i.value not in question.known]
    if same and new and all(i.value in question.known for i in same):
        return new  # 3台机器6小时生产的零件数为1080
    exact = [i for i in same if expect.dim == "count" and any(u.name in expect.names for u in i.units)]
    restated = {i.value for i in quantities if i.units}  # 8×5，所以面积是40平方米
    left: list[Item] = [i for i in pool if not isinstance(i, Quantity) or not (i.units or i.value in restated)]
    return exact or same or left or [i for i in quantities if i.units]


# What the form of the statement decides

_EQUATIONS = re.compile(
    r"(?:[^\u4e00-\u9fff,;]*(?:[\u4e00-\u9fff]{1,3}[^\u4e00-\u9fff,;=]*)?=[^\u4e00-\u9fff,;]*[\u4e00-\u9fff]{0,4}[。,;\s]*){2,}"
)


def _counted_together(text: str, fitting: Sequence[Item], question: Question) -> Quantity | None:
    """1张100元、1张50元和1张20元 are 3张, where the number of all is asked."""
    found = [i for i in fitting if isinstance(i, Quantity) and text[i.end : i.end + 1].isdigit()]
    if len(found) < 2 or not re.search("最少|共", question.main.clause):
        return None
    return replace(found[-1], value=sum((i.value for i in found), Fraction(0)))


_OR = phrase("or")
_UNKNOWN = re.compile(r"(?<![a-z])[a-z]\s?=\s?$")


def competing(text: str, chosen: Quantity, items: list[Item], question: Question) -> bool:
    """Whether the statement offers another value beside the chosen one: 9或10, 9到10之间."""
    for other in items:
        if other is chosen or not isinstance(other, Quantity) or other.value == chosen.value:
            continue
        first, second = sorted((chosen, other), key=lambda q: q.start)
        if any(first.end <= i.start < second.start for i in items):
            continue  # 从8月5日到8月20日一共16天
        between = text[first.end : second.start]
        if len(between) > 12 or compare.rounds_to(first, second, question):
            continue  # 50/3元，即16.67元
        roots = _UNKNOWN.search(text[: first.start]) and between.strip() in (",", "、")
        alike = not chosen.units or not other.units or chosen.units[0].dim == other.units[0].dim
        if alike and (roots or _OR.search(between)):
            return True
    return False
