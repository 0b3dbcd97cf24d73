"""Questions of several tasks, (1) … (2) …, and of several blanks: each is marked by itself."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import NamedTuple

from glmjobs.marking import blanks as holes
from glmjobs.marking.question import Question
from glmjobs.marking.tables import phrase

_TASK = re.compile(r"(?:^|(?<=[\s。;:,.!?]))\s?\((\d{1,2})\)(?!\s?(?:式|得|知|中|和|、|,|$))")
_SUMMARY = re.compile(r"\n\s?(?:综上|总之|因此,?(?:最终|填空)?的?答案)")
_MARKED = phrase("marked")
_STOPS = re.compile(r"[\s,;。:、]|\.(?!\d)")
_FACTOR = re.compile(r"(\d+)(?:\^(\d+))?")
_PRODUCT = re.compile(r"(?:[\d^×*x ]+=)*\s?(\d+(?:\^\d+)?(?:\s?[×*x]\s?\d+(?:\^\d+)?)+)")
_VERDICT = re.compile("[TF](?![a-z])|正确|错误|[√×对错]")


class Task(NamedTuple):
    """One task: what is asked, the gold answer, the part of the prediction that is about it."""

    question: str
    gold: str
    predicted: str


def tasks(question: Question, gold: str, predicted: str) -> list[Task]:
    """The tasks of a question, gold and prediction that number them alike; [] where they do not."""
    if len(asked := _numbered(question.text)) < 2:
        return []
    wanted, said = (max(_numbered(text), _inline(text), key=len) for text in (gold, predicted))
    if not list(asked) == list(wanted) == list(said):
        return []
    stem = _TASK.split(question.text)[0]
    return [Task(f"{stem}\n{asked[n]}", wanted[n], said[n]) for n in wanted]


def _numbered(text: str) -> dict[int, str]:
    """What follows each number, the last time it does; {} unless the numbers are 1, 2, …"""
    _, *found = _TASK.split(text)
    said = {int(n): _SUMMARY.split(task)[0].strip() for n, task in zip(found[::2], found[1::2], strict=True)}
    return dict(sorted(said.items())) if set(said) == set(range(1, len(said) + 1)) else {}


def _inline(text: str) -> dict[int, str]:
    """What follows each number where they stand in the text once each, in order: (1)5名(2)8个."""
    _, *found = re.split(r"\((\d)\)", text)
    said = {int(n): task.strip(" ,;。") for n, task in zip(found[::2], found[1::2], strict=True)}
    return said if list(map(int, found[::2])) == list(range(1, len(said) + 1)) else {}


def factors_listed(text: str) -> str:
    """A product of primes as the list of them: 60=2^2×3×5 is 2、2、3、5."""

    def listed(m: re.Match[str]) -> str:
        return "、".join("、".join([prime] * min(int(times or 1), 20)) for prime, times in _FACTOR.findall(m[1]))

    return _PRODUCT.sub(listed, text)


def final_words(predicted: str) -> str:
    """What stands behind the last mark of an answer, to the end of the text; "" where none does."""
    _, *said = _MARKED.split(predicted)
    return said[-1].strip(" :是为。.⟧\n") if said else ""


def same_words(gold: str, predicted: str) -> bool:
    """Whether a prediction is the gold's words, or ends in them, marked as the answer."""
    wanted, whole, said = (_STOPS.sub("", text) for text in (gold, predicted, final_words(predicted)))
    return wanted != "" and wanted in (whole, said)


def blanks(question: Question, gold: str, predicted: str) -> list[Task]:
    """Each blank of a question by itself; [] where there are not several, or gold or prediction fill them otherwise."""
    around = holes.clauses(question.text) if not question.options else []
    if sum(len(c) - 1 for c in around) < 2 and not (around and holes.CONVERSION.fullmatch(around[0][0])):
        return []
    wanted, said = holes.fills(around, gold, gold), holes.fills(around, predicted, final_words(predicted))
    if not wanted or not said:
        return []
    return [Task(*task) for task in zip(holes.asked(question.text, around), wanted, said, strict=True)]


def in_a_row(gold: str, predicted: str) -> list[Task]:
    """Signs (＞，＝，＜) or verdicts (TFT) in a row, each by itself, an empty one where it is missing."""
    if re.fullmatch(r"(?:(?:[TF√×对错]|正确|错误)[\s;,、]*){2,}", gold):
        read = (["错" if v in "F错误×" else "对" for v in _VERDICT.findall(t)] for t in (gold, predicted))
        return [Task("对吗?", *pair) for pair in zip_longest(*read, fillvalue="")]
    if re.fullmatch(r"(?:[<>=][\s;,、]*){2,}", gold):
        read = (re.findall("[<>=]", t) for t in (gold, final_words(predicted) or predicted))
        return [Task("比较大小。", *pair) for pair in zip_longest(*read, fillvalue="")]
    return []
