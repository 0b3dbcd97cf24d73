"""The verdict on one prediction: does its conclusion give the gold answer?

The rules are a careful marker's: final answers only, the last conclusion counts, values compared exactly
whatever their
notation, units converted within their dimension, rounding as asked. No rule looks at what a prediction says
of itself.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from glmjobs.marking import phrases, quantities
from glmjobs.marking import question as questions
from glmjobs.marking.compare import factors, parts, relation, verdicts
from glmjobs.marking.conclusion import find, select
from glmjobs.marking.conclusion import statement as statements
from glmjobs.marking.normalise import normalise
from glmjobs.marking.question import Question
from glmjobs.marking.scope import out_of_scope
from glmjobs.marking.values import expression
from glmjobs.marking.values.scan import Clock, Date, Item, Quantity, Ratio, Remainder, scan, weekdays

MAX_TEXT = 200_000
"""Characters of a solution read: of a longer one its first quarter and its last three quarters of this."""
GOLD_LOOKED_AT = 4000
"""Characters (head and tail) of a gold that decide which kind of answer it is."""


@dataclass(frozen=True)
class Verdict:
    """``correct``, the values compared (short text, "" where none was found) and the reason in words.

    ``status``: "not marked" where the answer is of a kind that the marker does not mark, "failed" where a rule
    raised an error; such a verdict is not correct and says nothing of the prediction.
    """

    correct: bool
    gold_value: str
    predicted_value: str
    reason: str
    status: Literal["marked", "not marked", "failed"] = "marked"


def judge(question: str, gold: str, prediction: str) -> Verdict:
    """Mark ``prediction`` against ``gold``, both free-form solutions or bare answers to ``question``.

    Linear in the texts' lengths; never raises on any text.

    >>> judge("还剩几颗糖？", "所以还剩9颗。", "15-6=9（颗）\\n答：还剩九颗。").correct
    True
    """
    gold_text, predicted = normalise(_ends(gold)).strip(), normalise(_ends(prediction)).strip()
    if not re.search(r"\w|[√×<>=]", predicted):
        return Verdict(False, _short(gold_text), "", "empty prediction")
    try:
        asked = questions.read(question)
        if why := out_of_scope(asked, gold_text):
            return Verdict(False, _short(gold_text), "", f"not marked: {why}", "not marked")
        return _judge(asked, gold_text, predicted)
    except (
        Exception
    ) as error:  # one row must not end a run of thousands: score counts these and ends above 0.1 %
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{at.filename.rpartition('/')[2]}:{at.lineno}"
        return Verdict(False, _short(gold_text), "", f"{type(error).__name__} in {where}", "failed")


def _ends(text: str) -> str:
    """Head and tail of a very long text, as two statements."""
    if len(text) <= MAX_TEXT:
        return text
    return text[: MAX_TEXT // 4] + "\n" + text[-3 * MAX_TEXT // 4 :]


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:30] + "…" + text[-45:]


def _judge(asked: Question, gold: str, predicted: str) -> Verdict:
    kind = kind_of(asked, gold)
    if kind == "choice":
        return Verdict(*verdicts.choice(asked, gold, predicted))
    if kind == "yesno":
        return Verdict(*verdicts.yes_no(asked, gold, predicted))
    if kind == "relation":
        return Verdict(*relation.relations(asked, gold, predicted))
    if kind == "expression":
        return Verdict(*verdicts.expressions(asked, gold, predicted))
    if kind != "choice" and _refused(asked, gold):
        both = _refused(asked, predicted)
        said = "undetermined"
        return Verdict(
            both, said, said if both else "", "both refuse" if both else "an answer where none can be"
        )
    if kind != "text" and "质因数" in asked.text and factors.prime_factors(gold):
        return _prime_factors(gold, predicted)
    if kind == "text":
        return Verdict(*verdicts.words(asked, gold, predicted))
    return _values(asked, gold, predicted, kind)


def _refused(asked: Question, text: str) -> bool:
    """Whether a text ends in saying that nothing can be determined."""
    last = statements.split(text)[-1] if text else ""
    return bool(phrases.UNDETERMINED.search(last)) and not phrases.UNDETERMINED.search(asked.text)


def _prime_factors(gold: str, predicted: str) -> Verdict:
    wanted, said = factors.prime_factors(gold), factors.prime_factors(predicted)
    same = said == wanted and factors.are_prime(said)
    shown = ["×".join(map(str, f)) for f in (wanted, said)]
    return Verdict(same, shown[0], shown[1], "same prime factors" if same else "other factors")


_EXPRESSION = re.compile("式子|代数式|化简|因式分解|分解因式|展开|用含|字母表示|解析式|表达式")
_LIST = re.compile(r"\d+(?:\.\d+)?(?:\s?、\s?\d+(?:\.\d+)?)+")
_NUMERIC = re.compile(r"\d|[零一二两三四五六七八九十百半]")
_ALGEBRA = re.compile(r"(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])")


def kind_of(asked: Question, gold: str) -> str:
    """The kind of answer: the question's, corrected by what the gold is."""
    kind = asked.kind
    gold = gold if len(gold) <= GOLD_LOOKED_AT else gold[:1000] + "\n" + gold[1000 - GOLD_LOOKED_AT :]
    bare = gold.strip(" 。.")
    if kind == "choice":
        return kind
    if relation.relation(gold, asked):
        return "relation"
    if re.fullmatch(r"[(\[]?[A-H](?:[、, ]?[A-H])*[)\]]?", bare) and not _NUMERIC.search(bare):
        return "choice"
    if verdicts.is_verdict(bare) and kind in ("number", "text", "rate", "ratio"):
        return "yesno"
    if kind == "yesno":
        return (
            "yesno"
            if verdicts.polarity(gold, asked) is not None
            else ("text" if not scan(gold) else "number")
        )
    if kind in ("clock", "date", "weekday"):
        found = (
            weekdays(gold)
            if kind == "weekday"
            else [i for i in scan(gold, kind) if not isinstance(i, Quantity)]
        )
        return kind if found else ("text" if not scan(gold) else "number")
    if _is_formula(bare, asked):
        return "expression"
    if _EXPRESSION.search(asked.text) and "的值" not in asked.main.clause and _ALGEBRA.search(gold):
        return "expression"
    if verdicts.in_order(asked, gold):
        return "text"
    if kind == "text" and re.search(r"\d", gold) and not verdicts.names(asked, gold):
        return "number"
    if kind != "text" and not _values_in(gold, kind):
        return "text"
    return kind


def _is_formula(gold: str, asked: Question) -> bool:
    """Whether a bare gold is an expression in letters that stand in the question (4a, a-3b)."""
    letters = set(re.findall(r"[a-z]", gold))
    return (
        len(gold) <= 24
        and bool(letters)
        and bool(re.fullmatch(r"[\da-z.+\-×*/()^ ]+", gold))
        and letters <= set(re.findall(r"(?<![A-Za-z\d])[a-z](?![A-Za-z])", asked.text))
        and "方程" not in asked.text
    )


def _values_in(text: str, kind: str) -> bool:
    return bool(scan(text, kind) or weekdays(text))


def _speaker(asked: Question, kind: str) -> find.Speaks:
    def speaks(text: str) -> list[Item]:
        return statements.usable(text, asked, kind)

    return speaks


def _values(asked: Question, gold: str, predicted: str, kind: str) -> Verdict:
    speaks = _speaker(asked, kind)
    wanted = _gold_conclusion(asked, gold, kind)
    if wanted.statement is None:
        return Verdict(*verdicts.words(asked, gold, predicted))
    asked = parts.with_names(asked, wanted)
    several = parts.gold_parts(asked, wanted)
    found = find.find(predicted, asked, kind, speaks)
    if several:
        return Verdict(*parts.compare_parts(asked, several, predicted, found, kind))
    target, _ = select.choose(wanted.statement.text, wanted.statement.items, asked)
    if target is None:
        return Verdict(False, _short(gold), "", "the gold has no value")
    target = _asked_half(target, asked)
    if isinstance(target, Ratio) and relation.turned_round(
        select.local(wanted.statement.text, target), asked
    ):
        target = Ratio(target.terms[::-1], target.start, target.end)
    if found.statement is None:
        return Verdict(False, str(target), "", found.reason)
    if not re.search("规律|数列|填", asked.text) and _LIST.fullmatch(found.statement.text.strip(" 。.")):
        return Verdict(False, str(target), _short(found.statement.text), "competing answers")
    value, rivals = select.choose(found.statement.text, found.statement.items, asked)
    if value is None:
        return Verdict(False, str(target), "", "no value in the conclusion")
    value = _asked_half(value, asked)
    if isinstance(target, Remainder) != isinstance(value, Remainder):
        return _remainder_mixed(target, value, found, asked)
    said = select.local(found.statement.text, value)
    if isinstance(value, Ratio) and relation.turned_round(said, asked):
        value = Ratio(value.terms[::-1], value.start, value.end)
    same, reason = quantities.items(target, value, asked)
    ways = [relation.bound(s.text) for s in (wanted.statement, found.statement)]
    if same and all(ways) and ways[0] != ways[1]:
        return Verdict(False, str(target), _short(found.statement.text), "other direction")
    if same and relation.opposite(said, asked):
        return Verdict(False, str(target), _short(said), "opposite comparison")
    if same and not verdicts.same_winner(asked, wanted.statement.text, found):
        return Verdict(False, str(target), _short(found.statement.text), "other name")
    if same and rivals:
        return Verdict(False, str(target), _short(found.statement.text), "competing answers")
    if (
        same
        and isinstance(value, Quantity)
        and value.vague
        and not (isinstance(target, Quantity) and target.vague)
        and value.places == 0
    ):
        return Verdict(False, str(target), str(value), "not an exact value")
    return Verdict(same, str(target), str(value), reason)


def _asked_half(item: Item, asked: Question) -> Item:
    """Of 3……2 the part that is asked, where only one is."""
    if not isinstance(item, Remainder):
        return item
    clause = asked.main.clause
    both = re.search("商.*余|=\\s*[?_(]?|计算", clause) or len(asked.asked) > 1
    if both:
        return item
    value = item.remainder if re.search("余|剩|多出", clause) else item.quotient
    if not re.search("[多少几]", clause):
        return item
    return Quantity(value, (), item.start, item.end)


def _remainder_mixed(target: Item, value: Item, found: find.Conclusion, asked: Question) -> Verdict:
    """3……2 beside '商是3，余数是2' or '每人3个，还剩2个'."""
    pair = target if isinstance(target, Remainder) else value
    assert isinstance(pair, Remainder)
    if pair is target and found.statement is not None:
        numbers = [i.value for s in found.region for i in s.items if isinstance(i, Quantity)]
        text = " ".join(s.text for s in found.region)
        left = re.findall(r"(?:余|剩|多出?)[^\d,。;]{0,8}(\d{1,18})", text)
        ok = bool(left) and Fraction(left[-1]) == pair.remainder and pair.quotient in numbers
        if not left and not re.search("[\u4e00-\u9fff]", text):
            ok = numbers == [pair.quotient, pair.remainder]  # 6，2 in the order asked
        ok = ok and (pair.quotient != pair.remainder or len(numbers) > 1)
        return Verdict(
            ok,
            str(target),
            ", ".join(map(str, numbers[-2:])),
            "same quotient and remainder" if ok else "other quotient or remainder",
        )
    return Verdict(False, str(target), str(value), "a remainder is no single value")


def _gold_conclusion(asked: Question, gold: str, kind: str) -> find.Conclusion:
    """The gold's conclusion; a gold always has one: where none is marked, its last statement with a value."""
    speaks = _speaker(asked, kind)
    found = find.find(gold, asked, kind, speaks)
    if found.statement is not None:
        return found
    for sentence in reversed(statements.split(gold)):
        items = speaks(sentence) or scan(sentence, kind)
        if items:
            statement = statements.Statement(sentence, 3.0, 0.0, items)
            return find.Conclusion(statement, [statement])
    return find.Conclusion(None, [], "no value")


def answer_type(gold: str, question: str = "") -> str:
    """The category of an answer for the report: integer, decimal, fraction, percent, ratio, remainder,
    time, choice,
    yes/no, several, expression or text."""
    asked, plain = questions.read(question), normalise(gold).strip()
    kind = kind_of(asked, plain)
    if kind in ("choice", "expression", "text"):
        return kind
    if kind == "yesno":
        return "yes/no"
    if kind in ("clock", "date", "weekday"):
        return "time"
    found = _gold_conclusion(asked, plain, kind)
    if found.statement is None:
        return "text"
    if parts.gold_parts(asked, found):
        return "several"
    item, _ = select.choose(found.statement.text, found.statement.items, asked)
    if isinstance(item, Ratio):
        return "ratio"
    if isinstance(item, Remainder):
        return "remainder"
    if isinstance(item, (Clock, Date)):
        return "time"
    if not isinstance(item, Quantity):
        return "text"
    if item.form in ("percent", "fraction"):
        return item.form
    return "integer" if item.value.denominator == 1 else "decimal"


gold_has_false_equation = expression.gold_has_false_equation
