"""The verdict on one prediction: does its conclusion give the gold answer?

Gold and prediction go through the same passes: :mod:`~glmjobs.marking.normalise` makes plain text of them,
:mod:`~glmjobs.marking.question` reads what is asked, :mod:`~glmjobs.marking.sentences` tells statements from talk,
:mod:`~glmjobs.marking.conclude` finds the one that concludes, a class of :mod:`~glmjobs.marking.answers` reads the
answer off it, and two answers are compared. The rules are a careful marker's: docs/scoring.md. No rule looks at what a
prediction says of itself.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from typing import Literal, NamedTuple

from glmjobs.marking import question as questions
from glmjobs.marking.answers import Answer, Choice, Expression, Found, Names, Values, YesNo, kind_of
from glmjobs.marking.normalise import normalise
from glmjobs.marking.question import TIMES
from glmjobs.marking.scope import out_of_scope
from glmjobs.marking.subquestions import blanks, factors_listed, in_a_row, same_words, tasks
from glmjobs.marking.values.items import Clock, Date, Quantity, Ratio, Remainder
from glmjobs.text import in_short

MAX_TEXT = 200_000
"""Characters of a solution read: of a longer one its first quarter and its last three quarters of this."""


class Step(NamedTuple):
    """One rule that fired: of the "question", the "gold", the "prediction" or the "verdict", on which words."""

    side: str
    rule: str
    span: str


@dataclass(frozen=True)
class Verdict:
    """``correct``, the values compared (short text, "" where none was found) and the reason in words.

    ``status``: "not marked" where the answer is of a kind that the marker does not mark, "failed" where a rule
    raised an error; such a verdict is not correct and says nothing of the prediction. ``sure``: how sure it is, 0 to 1;
    below 0.6 a row is worth a look. ``trace``: the rules that fired, in order.
    """

    correct: bool
    gold_value: str
    predicted_value: str
    reason: str
    status: Literal["marked", "not marked", "failed"] = "marked"
    sure: float = 1.0
    trace: tuple[Step, ...] = ()


def judge(question: str, gold: str, prediction: str) -> Verdict:
    """Mark ``prediction`` against ``gold``, both free-form solutions or bare answers to ``question``.

    Linear in the texts' lengths; never raises on any text.

    >>> judge("还剩几颗糖？", "所以还剩9颗。", "15-6=9（颗）\\n答：还剩九颗。").correct
    True
    """
    gold_text, predicted = normalise(_ends(gold)).strip(), normalise(_ends(prediction)).strip()
    if not re.search(r"\w|[√×<>=]", predicted):
        return Verdict(False, in_short(gold_text), "", "empty prediction")
    try:
        return _judge(question, gold_text, predicted)
    except (
        Exception
    ) as error:  # one row must not end a run of thousands: score counts these and ends above 0.1 %
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{at.filename.rpartition('/')[2]}:{at.lineno}"
        return Verdict(False, in_short(gold_text), "", f"{type(error).__name__} in {where}", "failed", 0.0)


def _judge(question: str, gold: str, predicted: str) -> Verdict:
    asked = questions.read(question)
    if "质因" in question:
        gold, predicted = factors_listed(gold), factors_listed(predicted)
    if several := tasks(asked, gold, predicted) or in_a_row(gold, predicted):
        return _all_of([_judge(*task) for task in several])
    if why := out_of_scope(asked, gold):
        return Verdict(False, in_short(gold), "", f"not marked: {why}", "not marked", 0.0)
    if same_words(gold, predicted):
        step = Step("prediction", "final_words", in_short(gold))
        return Verdict(True, in_short(gold), in_short(gold), "same words", trace=(step,))
    filled = [_judge(*task) for task in blanks(asked, gold, predicted)]
    if filled and all(v.predicted_value for v in filled):
        return _all_of(filled)
    kind, asked = kind_of(asked, gold)
    wanted = kind.read(gold, asked)
    if wanted.answer is None and kind is not Names:
        kind, wanted = Names, Names.read(gold, asked)
    if wanted.answer is None:
        return Verdict(False, in_short(gold), "", "the gold has no answer", "not marked", 0.0)
    found = kind.read(predicted, asked, wanted.answer)
    steps = [
        Step("question", "asks_for", f"{asked.kind.value}: {asked.main.clause}"),
        Step("gold", "is", kind.kind),
    ]
    steps += _steps("gold", wanted) + _steps("prediction", found)
    said = "" if found.answer is None else in_short(str(found.answer))
    if found.answer is None:
        return Verdict(False, str(wanted.answer), said, found.reason, sure=0.8, trace=tuple(steps))
    match = wanted.answer.equals(found.answer, asked)
    steps.append(Step("verdict", "right" if match.same else "wrong", match.reason))
    sure = min(wanted.sure, found.sure)
    return Verdict(match.same, str(wanted.answer), said, match.reason, sure=sure, trace=tuple(steps))


def _all_of(verdicts: list[Verdict]) -> Verdict:
    """One verdict on several tasks: right where each is."""
    wrong = next((v for v in verdicts if not v.correct), verdicts[0])
    return Verdict(
        all(v.correct for v in verdicts),
        "; ".join(v.gold_value for v in verdicts),
        "; ".join(v.predicted_value for v in verdicts),
        wrong.reason,
        next((v.status for v in verdicts if v.status != "marked"), "marked"),
        min(v.sure for v in verdicts),
        tuple(step for v in verdicts for step in v.trace),
    )


def _steps(side: str, found: Found) -> list[Step]:
    last = (
        [Step(side, "answer", str(found.answer))]
        if found.answer is not None
        else [Step(side, "none", found.reason)]
    )
    return [Step(side, rule, in_short(span)) for rule, span in found.fired] + last


def _ends(text: str) -> str:
    """Head and tail of a very long text, as two statements."""
    if len(text) <= MAX_TEXT:
        return text
    return text[: MAX_TEXT // 4] + "\n" + text[-3 * MAX_TEXT // 4 :]


def answer_type(gold: str, question: str = "") -> str:
    """The category of an answer for the report: integer, decimal, fraction, percent, ratio, remainder, time, choice,
    yes/no, several, expression or text."""
    asked, plain = questions.read(question), normalise(_ends(gold)).strip()
    kind, asked = kind_of(asked, plain)
    if kind in (Choice, Expression, YesNo):
        return kind.kind
    answer = kind.read(plain, asked).answer
    return _type_of(answer, asked.kind in TIMES) if isinstance(answer, Values) else "text"


def _type_of(answer: Values, time: bool) -> str:
    if answer.several:
        return "several"
    item = answer.one
    if time or isinstance(item, (Clock, Date)):
        return "time"
    if isinstance(item, (Ratio, Remainder)):
        return type(item).__name__.lower()
    assert isinstance(item, Quantity)
    if item.form in ("percent", "fraction"):
        return item.form
    return "integer" if item.value.denominator == 1 else "decimal"


__all__ = ["Answer", "Step", "Verdict", "answer_type", "judge"]
