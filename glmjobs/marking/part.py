"""One part of an answer, and the values of a statement that may be one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glmjobs.marking import select
from glmjobs.marking.question import Asked
from glmjobs.marking.sentence import MARKED, SO
from glmjobs.marking.statements import Statement
from glmjobs.marking.values.items import Item, Quantity, Ratio, Remainder

_COUNT = re.compile("[,;、]?(?:一共|总共|共计|共)(?:有)?\\s?$")
_OWNER = re.compile(r"(?:\s?[和与、,]\s?\d+)*(?:的|以[内上下]|之内)")  # 12和18的公因数


@dataclass(frozen=True)
class Part:
    """One part: its name ("" where unnamed), the asked clause it answers, its value."""

    name: str
    asked: Asked
    value: Item

    def __str__(self) -> str:
        return f"{self.name}{self.value}"


def values_of(statement: Statement) -> list[Item]:
    result: list[Item] = []
    for item in statement.items:
        if isinstance(item, Remainder):
            result += [Quantity(v, (), item.start, item.end) for v in (item.quotient, item.remainder)]
        elif isinstance(item, (Quantity, Ratio)):
            result.append(item)
    return result


def answers_of(statement: Statement) -> list[Item]:
    """The values of the statement's last clause that draws a conclusion (36=2×2×3×3，所以36的质因数有2和3: 2, 3)."""
    text = statement.text
    values = [
        i
        for i in values_of(statement)
        if not _OWNER.match(text, i.end) and not text.startswith("位数", i.end - 1)
    ]
    values = select.boxed(text, values) or values
    if len(values) > 2 and _COUNT.search(text[: values[-1].start]):
        values = values[:-1]  # 2、3、5、7，共4个
    marks = [m.end() for p in (MARKED, SO) for m in p.finditer(text)]
    after = [i for i in values if marks and i.start >= max(marks)]
    return after if len(after) > 1 else values


def fits(item: Item, asked: Asked) -> bool:
    if not isinstance(item, Quantity) or not item.units or not asked.expect.dim:
        return True
    return any(u.dim in asked.expect.dims for u in item.units)


def exact(item: Item, asked: Asked) -> bool:
    """Whether it has the very unit that is asked (棵, not 份)."""
    return isinstance(item, Quantity) and any(u.name in asked.expect.names for u in item.units)
