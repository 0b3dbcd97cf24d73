"""The kinds of answer, and which kind a gold is."""

from __future__ import annotations

import re
from dataclasses import replace

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.answers.choice import Choice, is_letters
from glmjobs.marking.answers.expression import Expression, is_expression
from glmjobs.marking.answers.names_said import Names, names, ordered, refuses, says_alike
from glmjobs.marking.answers.numbered import Numbered, is_numbered
from glmjobs.marking.answers.values import Values
from glmjobs.marking.answers.yes_no import YesNo, first_line, is_verdict, polarity
from glmjobs.marking.question import RATES, TIMES, Kind, Question
from glmjobs.marking.values.items import Quantity
from glmjobs.marking.values.scan import scan, weekdays

__all__ = [
    "Answer",
    "Choice",
    "Expression",
    "Found",
    "Names",
    "Numbered",
    "Values",
    "YesNo",
    "kind_of",
]

MEASURED = (Kind.NUMBER, *RATES)
_SORT = re.compile("三角形[^,。]{0,12}(?:类型|分类)|(?:类型|分类).{0,20}三角形|什么(?:三角|四边|图)形")
"""Questions for the kind of a figure."""
LOOKED_AT = 4000
"""Characters (head and tail) of a gold that decide which kind of answer it is."""


def kind_of(question: Question, gold: str) -> tuple[type[Answer], Question]:
    """The kind of a gold, and the question as it corrects it (几点？ answered by a number asks for a number)."""
    gold = gold if len(gold) <= LOOKED_AT else gold[:1000] + "\n" + gold[1000 - LOOKED_AT :]
    bare, kind = gold.strip(" 。."), question.kind
    if kind is Kind.CHOICE or is_letters(bare):
        return Choice, question
    if is_numbered(gold, question):
        return Numbered, question
    decided = kind is Kind.YES_NO and (is_verdict(first_line(gold)) or polarity(gold, question) is not None)
    if is_verdict(bare) or decided:
        return YesNo, question
    order = "大小关系" in question.text and ordered(gold)
    if refuses(gold, question) or order or (_SORT.search(question.text) and names(question, gold)):
        return Names, question
    if is_expression(gold, question):
        return Expression, question
    if says_alike(gold, question) or not _has_value(question, gold):
        return Names, question
    times = weekdays(gold) or not all(isinstance(i, Quantity) for i in scan(gold, kind.value))
    as_asked = kind in MEASURED or (kind in TIMES and times)
    return Values, question if as_asked else replace(question, kind=Kind.NUMBER)


def _has_value(question: Question, gold: str) -> bool:
    if re.search("比较.{0,12}大小|填.{0,6}[><]|[○〇◯]", question.text) and re.search("[<>=]|[大小等]于", gold):
        return False
    if question.kind is Kind.TEXT:
        return bool(re.search(r"\d", gold)) and not names(question, gold)
    return bool(scan(gold) or weekdays(gold) or "没有" in gold)
