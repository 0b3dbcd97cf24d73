"""Questions of test sets, in words and with options, and their gold answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from glmjobs.data.conversations import read_history, read_system, read_turns
from glmjobs.data.forms import Form, Unusable, Value, first_of, kind_of, listed
from hpc.core.errors import BadInput


class Asking(NamedTuple):
    """A question of a test set as a model is asked it, and its gold answer."""

    question: str
    gold: str
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""


CHOOSE = "请选出正确的选项。"
"""What a question with options ends with."""


def read_question(form: Form, row: Value, first: int | None = None) -> Asking:
    """A row of a test set.

    Args:
        first: from which number a choice's options are counted where the gold answer is a number; :func:`counted_from`.

    Raises:
        Unusable: a column is missing or empty, or not what the form has there.
    """
    if form.turns:
        return _asked_last(form, row)
    question = _text(row, form.question)
    unread = [] if form.context else [name for name in ("history", "system") if row.get(name)]
    if unread:
        raise Unusable(f"{unread[0]!r} would not be shown to the model; name the form alpaca, which reads it")
    if form.options:
        options = read_options(form, row)
        shown = "\n".join(f"{letter}. {text}" for letter, text in options.items())
        return Asking(f"{question}\n{shown}\n{CHOOSE}", _letter(_text(row, form.gold), options, first))
    more = row.get(form.query) if form.query else None
    question = f"{question}\n{more}" if more else question
    history, system = (read_history(row), read_system(row)) if form.context else ((), "")
    return Asking(question, form.short(_text(row, form.gold)), history, system)


def _asked_last(form: Form, row: Value) -> Asking:
    talk = read_turns(form, row, open_end=True)
    beside = first_of(row, form.gold)
    gold = _text(row, form.gold) if beside is not None and row[beside] is not None else talk.answer
    if not gold.strip():
        raise Unusable("no gold answer: the last turn is empty")
    return Asking(talk.question, gold, talk.history, talk.system)


def _text(row: Value, names: Sequence[str]) -> str:
    """The text, or the number as text, in the first of these columns."""
    column = first_of(row, names)
    if column is None:
        raise Unusable(f"column {names[0]!r} is missing")
    value = row[column]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    elif value != value:  # NaN: an empty cell, as pandas writes it
        value = None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        found = "is empty" if value is None else f"is {kind_of(value)}, not text"
        raise Unusable(f"column {column!r} {found}")
    if not str(value).strip():
        raise Unusable(f"column {column!r} is empty")
    return str(value)


_LABEL = re.compile(r"\s*[(（]?([A-Za-z])(?:[)）]|[.．、:：])\s*")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_options(form: Form, row: Value) -> dict[str, str]:
    """A choice's options by their letters, from columns ``A``, ``B``, … or from one list.

    Raises:
        Unusable: there are fewer than two, or one is not text.
    """
    column = first_of(row, form.options)
    if column == "A":
        given: list[Any] = []
        for letter in _LETTERS:
            if row.get(letter) in (None, ""):
                break
            given.append(row[letter])
    else:
        found = listed(row[str(column)])
        given = found if isinstance(found, list) else []
    texts = [str(option) for option in given if isinstance(option, (str, int, float))]
    if len(texts) < 2 or len(texts) != len(given):
        raise Unusable(f"column {column!r} holds no options")
    labels = [_LABEL.match(text) for text in texts]
    if all(labels) and [label[1].upper() for label in labels if label] == list(_LETTERS[: len(texts)]):
        texts = [text[label.end() :] for text, label in zip(texts, labels, strict=True) if label]
    return dict(zip(_LETTERS, texts, strict=False))


def _letter(gold: str, options: Mapping[str, str], first: int | None) -> str:
    """The gold letter(s), from letters, ``(B) text``, an option's own text, or its number."""
    gold = gold.strip().translate(_NARROW)
    if gold.isdigit() and gold not in options.values() and first is not None:
        at = int(gold) - first
        if 0 <= at < len(options):
            return _LETTERS[at]
        raise Unusable("a gold answer that is none of the options", f"found {gold}")
    if all(letter in options for letter in gold.upper()):
        return gold.upper()
    same = [letter for letter, text in options.items() if text.strip() == gold]
    label = _LABEL.match(gold)
    if len(same) == 1:
        return same[0]
    if label and label[1].upper() in options:
        return label[1].upper()
    raise Unusable("a gold answer that is none of the options", f"found {gold[:40]!r}")


_NARROW = {0xFF21 + at: letter for at, letter in enumerate(_LETTERS)}


def counted_from(form: Form, rows: Iterable[Value]) -> int | None:
    """Whether gold answers that are numbers count a choice's options from 0 or from 1; None: none is a number.

    Raises:
        BadInput: the rows leave it open, or contradict each other.
    """
    low = high = False
    numbers = 0
    for row in rows:
        try:
            gold, options = _text(row, form.gold).strip(), read_options(form, row)
        except Unusable:
            continue
        if not gold.isdigit() or gold in options.values():
            continue
        numbers += 1
        low, high = low or gold == "0", high or gold == str(len(options))
    if not numbers:
        return None
    if low == high:
        why = (
            "both 0 and the number of options occur" if low else "neither 0 nor the number of options occurs"
        )
        raise BadInput(f"gold answers are numbers, and {why}: write letters (A, B, …)")
    return 0 if low else 1
