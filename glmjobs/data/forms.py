"""The forms in which people have their data, training data and test sets alike: one declaration each.

A :class:`Form` says by which columns it is told, which of them hold the question and the answer, what of the answer is
the gold one, and which judge marks it. :func:`find_form` finds the form of a row; :mod:`~glmjobs.data.conversations`
and :mod:`~glmjobs.data.questions` read rows by it. To add a form, add a row to :data:`FORMS`: the first whose columns a
row has is taken, so the special ones stand first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glmjobs.data.rows import Columns
from hpc.core import hints
from hpc.core.errors import BadInput

Value = Mapping[str, Any]
AUTO = "auto"


class Unusable(Exception):
    """Why a row cannot be used. ``reason`` is one of few; ``detail`` is this row's own."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def as_it_is(text: str) -> str:
    """The gold answer is the whole text."""
    return text


def after_hashes(text: str) -> str:
    """What stands behind GSM8K's ``####``; the whole text where there is none."""
    return text.rpartition("####")[2].strip() or text


def boxed(text: str) -> str:
    """What stands in the last ``\\boxed{}`` of a solution, as MATH has it; the whole text where there is none."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return text
    start = text.index("{", start)
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[start + 1 : at]
    return text


MARKS: dict[Callable[[str], str], str] = {after_hashes: "####", boxed: "\\boxed{}"}
"""What a worked answer's result is marked by, by what finds it; without the mark it finds the whole text."""


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes:
        name: as ``data.form`` and ``score.sets`` say it.
        title: as people say it.
        question: what its question's column is called; of several names the first that a row has.
        gold: the same of the gold answer.
        query: a column that is appended to the question where it is not empty.
        turns: the column of a conversation's turns; then there is no column for a question.
        context: a ``history`` and a ``system`` prompt are read, where a row has them.
        options: columns that hold a choice's options: ``A``, ``B``, … where ``A`` is named, or one list.
        also: columns that must be there, too; by them the form is told from others.
        holds: what the gold answer's text holds where it is this form.
        response: columns that training learns, best first; none: only a test set.
        short: the gold answer from the gold column's text.
        judge: what marks an answer, as ``score.judge`` names it.
    """

    name: str
    title: str
    question: tuple[str, ...] = ()
    gold: tuple[str, ...] = ()
    query: str = ""
    turns: str = ""
    context: bool = False
    options: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    holds: str = ""
    response: tuple[str, ...] = ()
    short: Callable[[str], str] = as_it_is
    judge: str = "meaning"

    def fits(self, row: Value) -> bool:
        """Whether a row has the form's columns."""
        if self.turns:
            return isinstance(listed(row.get(self.turns)), list)
        needed: list[Sequence[str]] = [self.question, self.gold, *([self.options] if self.options else [])]
        if any(first_of(row, names) is None for names in needed) or any(
            name not in row for name in self.also
        ):
            return False
        return self.holds in str(row[first_of(row, self.gold) or ""])

    @property
    def trains(self) -> bool:
        """Whether it is training data, too."""
        return bool(self.turns or self.response)

    @property
    def said(self) -> str:
        """Its columns in words."""
        if self.turns:
            return self.turns
        return " and ".join([self.question[0], *self.options[:1], *self.also, self.gold[0]])


_ZH = ("question_zh", "question_zh-cn", "question_cn", "question_chinese")

FORMS: tuple[Form, ...] = (
    Form("messages", "OpenAI's messages", turns="messages", gold=("answer",)),
    Form("sharegpt", "ShareGPT's conversations", turns="conversations", gold=("answer",)),
    Form("xtuner", "XTuner's conversation", turns="conversation"),
    Form(
        "choice", "questions with options, as C-Eval, CMMLU and MMLU", question=("question", "Question"),
        options=("A", "choices", "options"), gold=("answer", "Answer", "label"), judge="choice",
    ),
    Form(
        "math23k", "Math23K and Ape210K", question=("original_text", "question_chinese"), gold=("ans", "result"),
        also=("equation",),
    ),
    Form(
        "math", "MATH", question=("problem",), gold=("solution", "answer"), response=("solution",), short=boxed,
    ),
    Form(
        "gsm8k-zh", "GSM8K with its Chinese translation", question=_ZH, gold=("answer_only", "answer_zh", "answer"),
        response=("answer_zh",), short=after_hashes,
    ),
    Form("mgsm", "MGSM", question=("question",), gold=("answer_number",)),
    Form(
        "gsm8k", "GSM8K", question=("question",), gold=("answer",), response=("answer",), holds="####",
        short=after_hashes,
    ),
    Form("mgsm", "MGSM", question=("question",), gold=("answer",)),
    Form("cmath", "CMATH", question=("input", "question"), gold=("golden",)),
    Form("belle", "BELLE's columns", question=("instruction",), query="input", gold=("output",), response=("output",)),
    Form(
        "alpaca", "alpaca's columns", question=("instruction",), query="input", gold=("output",), response=("output",),
        context=True,
    ),
)  # fmt: skip
"""Every form, special ones first. Of one name with several rows, any row of it will do."""

NAMES = tuple(dict.fromkeys(form.name for form in FORMS))
TRAINING = tuple(dict.fromkeys(form.name for form in FORMS if form.trains))
PLAIN = ("belle", "alpaca")
"""Forms whose columns a recipe may call otherwise (``data.prompt_column`` and so on)."""


def first_of(row: Value, names: Iterable[str]) -> str | None:
    """The first of these columns that a row has with something in it; else the first that it has at all."""
    there = [name for name in names if name in row]
    return next((name for name in there if row[name] not in (None, "")), there[0] if there else None)


def named(name: str) -> tuple[Form, ...]:
    """The forms of that name.

    Raises:
        BadInput: there is none.
    """
    found = tuple(form for form in FORMS if form.name == name.lower())
    if not found:
        raise BadInput(f"form = {name!r}: none of the forms here ({', '.join((AUTO, *NAMES))})")
    return found


def find_form(row: Value, columns: Columns | None = None) -> Form | None:
    """The form of a row by its columns; None: it is none of them.

    Args:
        columns: what a recipe calls the three parts; a row that has them is of a plain form.
    """
    if columns is not None and columns.prompt in row and columns.response in row:
        return plain_form(row)
    found = next((form for form in FORMS if form.fits(row)), None)
    return plain_form(row) if found is not None and found.name in PLAIN else found


def plain_form(row: Value) -> Form:
    """BELLE's form, or alpaca's where the columns say that there is a history or a system prompt."""
    return named("alpaca" if {"history", "system"} & row.keys() else "belle")[0]


def unlike(name: str, row: Value, field: str = "") -> str:
    """Why a named form doesn't fit a row, and what it looks like, in words; ``field``: the recipe's that named it."""
    have = ", ".join(map(repr, list(row)[:12])) or "none"
    looks = find_form(row)
    wanted = " or ".join(dict.fromkeys(form.said for form in named(name)))
    hint = "choose another form"
    if looks is not None:
        named_so = hints.setting(field, looks.name) if field else f"form {looks.name}"
        hint = f"it looks like {looks.title}: {named_so}"
    return f"{field or 'form'} = {name} needs {wanted}, but its rows have {have}; {hint}"


def kind_of(value: object) -> str:
    """What a value of a JSON text or a table is, in words."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    kinds = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def listed(value: object) -> object:
    """A list, also one that a table holds as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
