"""Answers with letters: expressions, equations, and conditions on an unknown (inequalities, intervals, x≠2)."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from fractions import Fraction

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import conclude
from glmjobs.marking.question import Question, squeeze
from glmjobs.marking.statements import split, strip_denied
from glmjobs.marking.values.arithmetic import LETTERS, POINTS, evaluate, same, same_equation

_SIDE = r"[-+×*÷/()\d.^ a-zA-Zπ√]*"
_FORMULA = re.compile(rf"{_SIDE}[a-zA-Z]{_SIDE}")
_EQUATION = re.compile(rf"({_SIDE}[a-zA-Z]{_SIDE})=({_SIDE}[\da-zA-Z]{_SIDE})")
_UNITS = re.compile(r"\b(?:cm|km|kg|m|g)\b")
_POINT = {c: Fraction(k + 2) for k, c in enumerate(LETTERS)}
_ASKED = re.compile("式子|代数式|化简|因式分解|分解因式|展开|用含|字母表示|解析式|表达式")
_COMPLEX = re.compile("(?<![a-zA-Z])i(?![a-zA-Z])")
_EQUATION_ASKED = re.compile(
    "(?:方程|等式|一般形式|直线|函数|解析式|表达式|关系式).{0,6}(?:是|为|得|写|列)|整理|方程是什么|根的.*方程|列.{0,4}方程"
)
_ALGEBRA = re.compile("(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])")
_CONDITION_ASKED = re.compile("范围|解集|定义域|值域|不等式|取值|区间")

_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:/\d+)?|∞)"
_X = r"(?<![a-zA-Z\d)+\-*/])(?:[a-zA-Z]|f\([a-z]\))"
_CONDITION = re.compile(
    rf"({_NUMBER})\s?([<≤])\s?{_X}\s?([<≤])\s?({_NUMBER})|([(\[])\s?({_NUMBER})\s?,\s?\+?({_NUMBER})\s?([)\]])|"
    rf"(?<![\d.])({_NUMBER})\s?([<>≤≥])\s?{_X}(?![a-zA-Z\d])|{_X}\s?([<>≤≥≠])\s?({_NUMBER})(?![\d.]*[a-zA-Z(])"
)
"""0<a≤10; [-1,2); 3<x; x≠2."""
_SAID = (
    ("大于或?等于|不小于", "≥"), ("小于或?等于|不大于", "≤"), ("大于", ">"), ("小于", "<"), ("不等于|不为", "≠"),
)  # fmt: skip
_FLIP = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}
_AND = re.compile(r"[\s,]*(?:且|,|和|∩)\s?")

_NESTED = re.compile(r"\(([^()]*)\(([^()]*)\)([^()^]*)\)")

Bounds = frozenset[tuple[str, Fraction]]


@dataclass(frozen=True)
class Expression(Answer):
    """An expression or equation as text, or the bounds of an unknown."""

    kind = "expression"
    text: str
    bounds: Bounds = frozenset()

    def __str__(self) -> str:
        return self.text

    @classmethod
    def read(cls, text: str, question: Question, gold: Answer | None = None) -> Found:
        pick = _formula
        if (isinstance(gold, Expression) and gold.bounds) or (gold is None and is_condition(text, question)):
            pick = _condition
        elif (isinstance(gold, Expression) and "=" in gold.text) or (
            gold is None and is_equation(text, question)
        ):
            pick = functools.partial(_equation, wanted=gold.text if gold else "", given=question.text)
        if gold is None and (last := pick(split(text)[-1]) or pick(text)):
            return Found(last[-1], fired=(("last_expression", str(last[-1])),))
        found = conclude(text, question, pick)
        if found.statement is None:
            return Found(None, found.reason, tuple(found.fired))
        return Found(found.statement.items[-1], fired=tuple(found.fired), sure=0.9)

    def equals(self, other: Answer, question: Question) -> Match:
        if not isinstance(other, Expression):
            return Match(False, "other kind of answer")
        if self.bounds:
            return Match.of(self.bounds == other.bounds, "range")
        if "=" in self.text:
            return Match.of("=" in other.text and same_equation(self.text, other.text), "equation")
        alike = same(self.text, other.text)
        if alike and "因式" in question.text and _factors(other.text) < _factors(self.text):
            return Match(False, "not factored so far")
        return Match.of(alike, "expression")


def is_expression(text: str, question: Question) -> bool:
    """Whether a gold is an expression, an equation or a condition."""
    bare = text.strip(" 。.")
    if (
        _is_letters_of_the_question(bare, question)
        or is_condition(text, question)
        or is_equation(text, question)
    ):
        return True
    if re.search("虚数单位|复数", question.text) and _COMPLEX.search(split(bare)[-1]):
        return True
    asked = _ASKED.search(question.text) and not re.search("的值|多少|几", question.main.clause)
    return bool(asked) and bool(_ALGEBRA.search(text))


def is_condition(text: str, question: Question) -> bool:
    """Whether a gold bounds an unknown where such is asked, or is nothing but a condition (x≠2)."""
    last = split(text)[-1] if text else ""
    if not _condition(last):
        return False
    return bool(_CONDITION_ASKED.search(question.text)) and not re.search(
        "整数解|[最几]", question.main.clause
    )


def is_equation(text: str, question: Question) -> bool:
    """Whether a gold ends in an equation where such is asked (not the value of an unknown)."""
    found = _equation(split(text)[-1] if text else "")
    if not found or not (_EQUATION_ASKED.search(question.text) or found[-1].text == text.strip(" 。.")):
        return False
    left, _, right = found[-1].text.partition("=")
    if len(squeeze(left)) > 3 and squeeze(left) in question.plain:
        return False  # x²-9=(x+3)(x-3) where x²-9 is given
    return not re.fullmatch(r"\s?[a-zA-Z]\s?", left) or bool(_ALGEBRA.search(right))


def _is_letters_of_the_question(text: str, question: Question) -> bool:
    """A bare gold is an expression in letters that stand in the question (4a, a-3b)."""
    letters = set(re.findall(r"[a-z]", text))
    return (
        len(text) <= 24
        and bool(letters)
        and bool(re.fullmatch(r"[\da-zπ.+\-×*/()^ ]+", text))
        and letters <= set(re.findall(r"(?<![A-Za-z\d])[a-z](?![A-Za-z])", question.text))
        and "方程" not in question.text
    )


def _plain(text: str) -> str:
    return _UNITS.sub(" ", strip_denied(text.rstrip(" .。")).replace("⟦", "").replace("⟧", ""))


def _formula(text: str) -> list[Expression]:
    """The expression a statement ends in: of S=ab+c the right side."""
    plain = _plain(text)
    good = [f for m in _FORMULA.finditer(plain) if (f := m[0].strip()) and evaluate(f, _POINT) is not None]
    after = [f for f in good if re.search("[=:是为得]\\s?\\(?" + re.escape(f), plain)]
    return [Expression(f) for f in (after or good)[-1:]]


def _letters(text: str) -> frozenset[str]:
    return frozenset(_ALGEBRA.findall(text))


def _equation(text: str, wanted: str = "", given: str = "") -> list[Expression]:
    """The last equation in a statement that has the letters of the ``wanted`` one and is not ``given``."""
    letters = _letters(wanted)
    known = {squeeze(m[0]) for m in _EQUATION.finditer(given)} if wanted else set()
    found = [
        f"{m[1].strip()}={m[2].strip()}"
        for m in _EQUATION.finditer(_plain(text))
        if letters <= _letters(m[0])
        and squeeze(m[0]) not in known
        and all(evaluate(side.strip(), POINTS[0]) is not None for side in m.groups())
    ]
    return [Expression(f) for f in found[-1:]]


def _value(text: str) -> Fraction | None:
    text = text.lstrip("+")
    return None if "∞" in text else evaluate(text)


def _condition(text: str) -> list[Expression]:
    """The last condition on an unknown in a statement: 0<a<10, x≥6, [-1,2), 大于0且小于10, a<1且a≠0."""
    text = text.replace(">=", "≥").replace("<=", "≤")
    for words, sign in _SAID:
        text = re.sub(rf"(?<=[a-zA-Z])\s?(?:{words})", sign, text)
        text = re.sub(words, f"x{sign}", text)
    bounds: list[tuple[str, Fraction | None]] = []
    start = None
    for m in reversed(list(_CONDITION.finditer(text))):
        if start is not None and not _AND.fullmatch(text[m.end() : start]):
            break
        bounds, start = bounds + _bounds(m), m.start()
    kept = frozenset((sign, value) for sign, value in bounds if value is not None)
    return [Expression(", ".join(f"{s}{v}" for s, v in sorted(kept)), kept)] if kept else []


def _bounds(m: re.Match[str]) -> list[tuple[str, Fraction | None]]:
    """The bounds of one condition; None where there is none on that side."""
    low, after, before, high, opens, first, last, closes, least, turned, sign, number = m.groups()
    if low:
        return [(_FLIP[after], _value(low)), (before, _value(high))]
    if opens:
        return [(">" if opens == "(" else "≥", _value(first)), ("<" if closes == ")" else "≤", _value(last))]
    return [(_FLIP[turned], _value(least)) if least else (sign, _value(number))]


def _factors(expression: str) -> int:
    """How many factors with letters a product has: 2(x+3)(x-3) two, a(b+1)^2 three, x^2-9 one."""
    while expression != (flat := _NESTED.sub(r"(\1\2\3)", expression)):
        expression = flat
    outside = re.sub(r"\([^()]*\)", "", expression)
    if re.search(r"[\da-zA-Z)]\s?[+-]", outside):
        return 1
    groups = re.finditer(r"(?:\([^()]*[a-zA-Z][^()]*\)|[a-zA-Z])(?:\^(\d))?", expression)
    return sum(int(m[1] or 1) for m in groups)
