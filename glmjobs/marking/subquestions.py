"""Questions of several tasks, (1) … (2) …, and of several blanks: each is marked by itself."""

from __future__ import annotations

import re
from typing import NamedTuple

from glmjobs.marking.question import Question
from glmjobs.marking.tables import phrase
from glmjobs.marking.values import units

_TASK = re.compile(r"(?:^|(?<=[\s。;:,!?]))\s?\((\d{1,2})\)(?!\s?(?:式|得|知|中|和|、|,|$))")
_SUMMARY = re.compile(r"\n\s?(?:综上|总之|因此,?(?:最终|填空)?的?答案)")
_MARKED = phrase("marked")
_STOPS = re.compile(r"[\s,;。:、]|\.(?!\d)")
_PIECES = re.compile("[;,、\n和]")


class Task(NamedTuple):
    """One task: what is asked, the gold answer, the part of the prediction that is about it."""

    question: str
    gold: str
    predicted: str


def tasks(question: Question, gold: str, predicted: str) -> list[Task]:
    """The tasks of a question, gold and prediction that number them alike; [] where they do not."""
    asked, wanted = _numbered(question.text), _numbered(gold)
    if len(wanted) < 2 or list(wanted) != list(asked):
        return []
    said = _numbered(predicted)
    if list(said) != list(wanted):
        return []
    stem = question.text[: _TASK.search(question.text).start()]  # type: ignore[union-attr]
    return [Task(f"{stem}\n{asked[n]}", wanted[n], said[n]) for n in wanted]


def _numbered(text: str) -> dict[int, str]:
    """What follows each number, the last time it does; {} unless the numbers are 1, 2, …"""
    found = list(_TASK.finditer(text))
    whole = _SUMMARY.search(text, found[-1].end()) if found else None
    ends = [m.start() for m in found[1:]] + [whole.start() if whole else len(text)]
    said = {int(m[1]): text[m.end() : end].strip() for m, end in zip(found, ends, strict=False)}
    return dict(sorted(said.items())) if sorted(said) == list(range(1, len(said) + 1)) else {}


def final_words(predicted: str) -> str:
    """What stands behind the last mark of an answer, to the end of the text; "" where none does."""
    marks = list(_MARKED.finditer(predicted))
    return predicted[marks[-1].end() :].strip(" :是为。.⟧\n") if marks else ""


def same_words(gold: str, predicted: str) -> bool:
    """Whether a prediction ends in the gold's words, marked as the answer."""
    if _numbered(gold):
        gold, predicted = (_TASK.sub(" ", text) for text in (gold, predicted))
    wanted, said = (_STOPS.sub("", text) for text in (gold, final_words(predicted)))
    return wanted == said != ""


_TWO_UNITS = re.compile(r"(?:多少|几)([^\d\s,。;多少几]{1,4})(?:多少|几)([^\d\s,。;多少几.?]{1,4})[。.?]?$")
_TWO_NUMBERS = re.compile(r"\s*(\d+)\s?[;,、和\s]\s?(\d+)[\s。.]*")


def one_compound(question: Question, text: str) -> str:
    """A bare 1；30 as 1时30分, where 1.5时=( )时( )分 asks for one value in two units."""
    found, numbers = _TWO_UNITS.search(question.main.clause), _TWO_NUMBERS.fullmatch(text)
    if not found or not numbers:
        return text
    whole, part = (units.match(name, 0)[0] for name in found.groups())
    one_dim = {u.dim for u in whole} & {u.dim for u in part}
    return f"{numbers[1]}{found[1]}{numbers[2]}{found[2]}" if one_dim else text


def places(question: Question, gold: str, predicted: str) -> list[Task]:
    """The pieces of a list such as ＞，＝，＜ or 千，6个, in their places; [] where the lists differ in length."""
    wanted, said = (
        [p for p in map(str.strip, _PIECES.split(text.strip(" 。."))) if p]
        for text in (gold, final_words(predicted))
    )
    if not 2 <= len(wanted) == len(said) or max(map(len, wanted + said)) > 20 or "(" in wanted[0]:
        return []
    return [Task(question.text, g, p) for g, p in zip(wanted, said, strict=True)]
