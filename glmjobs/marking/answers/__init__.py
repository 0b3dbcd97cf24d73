"""The kinds of answer, and which kind a gold is."""

from __future__ import annotations

import re
from dataclasses import replace

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.answers.choice import Choice, is_letters
from glmjobs.marking.answers.expression import Expression, is_equation, is_expression
from glmjobs.marking.answers.names_said import Names, in_order, names, refuses, says_alike
from glmjobs.marking.answers.numbered import Numbered, is_numbered
from glmjobs.marking.answers.relation import Relation, relation
from glmjobs.marking.answers.values import Values
from glmjobs.marking.answers.yes_no import YesNo, is_verdict, polarity
from glmjobs.marking.question import TIMES, Kind, Question
from glmjobs.marking.values.items import Quantity
from glmjobs.marking.values.scan import scan, weekdays

__all__ = [
    "Answer",
    "Choice",
    "Expression",
    "Found",
    "Names",
    "Numbered",
    "Relation",
    "Values",
    "YesNo",
    "kind_of",
]

LOOKED_AT = 4000
"""Characters (head and tail) of a gold that decide which kind of answer it is."""


def kind_of(question: Question, gold: str) -> tuple[type[Answer], Question]:
    """The kind of a gold, and the question as it corrects it (几点？ answered by a number asks for a number)."""
    gold = gold if len(gold) <= LOOKED_AT else gold[:1000] + "\n" + gold[1000 - LOOKED_AT :]
    bare, kind = gold.strip(" 。."), question.kind
    if kind is Kind.CHOICE or (is_letters(bare) and not relation(gold, question)):
        return Choice, question
    if is_numbered(gold, question):
        return Numbered, question
    if relation(gold, question) and not is_equation(gold, question):
        return Relation, question
    if is_verdict(bare) and kind not in TIMES:
        return YesNo, question
    if kind is Kind.YES_NO and polarity(gold, question) is not None:
        return YesNo, question
    if refuses(gold, question):
        return Names, question
    if is_expression(gold, question):
        return Expression, question
    if in_order(question, gold) or says_alike(gold, question):
        return Names, question
    return (Values, _corrected(question, gold)) if _has_value(question, gold) else (Names, question)


def _has_value(question: Question, gold: str) -> bool:
    if question.kind is Kind.TEXT:
        return bool(re.search(r"\d", gold)) and not names(question, gold)
    return bool(scan(gold) or weekdays(gold) or "没有" in gold)


def _corrected(question: Question, gold: str) -> Question:
    """The question, of another kind where its gold has no value of its kind."""
    if question.kind is Kind.WEEKDAY:
        fits = bool(weekdays(gold))
    elif question.kind in TIMES:
        fits = any(not isinstance(i, Quantity) for i in scan(gold, question.kind.value))
    else:
        fits = question.kind not in (Kind.TEXT, Kind.YES_NO)
    return question if fits else replace(question, kind=Kind.NUMBER)
