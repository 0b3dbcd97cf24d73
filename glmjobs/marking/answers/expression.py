"""Answers with letters: expressions, equations, and conditions on an unknown (inequalities, intervals, x≠2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from glmjobs.marking.answers.base import Answer, Found
from glmjobs.marking.compare import Match
from glmjobs.marking.conclude import conclude
from glmjobs.marking.question import Question, squeeze
from glmjobs.marking.statements import split, strip_denied
from glmjobs.marking.values import units
from glmjobs.marking.values.arithmetic import LETTERS, POINTS, evaluate, same, same_equation

_SIDE = r"[-+×*÷/()\d.^ a-zA-Zπ√]*"
_FORMULA = re.compile(rf"{_SIDE}[a-zA-Z]{_SIDE}")
_EQUATION = re.compile(rf"({_SIDE}[a-zA-Z]{_SIDE})=({_SIDE}[\da-zA-Z]{_SIDE})")
_POINT = {c: Fraction(k + 2) for k, c in enumerate(LETTERS)}
_ASKED = re.compile("代数式|化简|因式分解|分解因式|展开|用含|字母表示|解析式|表达式")
_EQUATION_ASKED = re.compile("方程|整理|(?:等式|一般形式|直线|函数|解析式|表达式|关系式).{0,6}[是为得写列]")
_ALGEBRA = re.compile("(?<![a-zA-Z])[a-zA-Z](?![a-zA-Z])")
_CONDITION_ASKED = re.compile("范围|解集|定义域|值域|不等式|取值|区间")

_NUMBER = r"-?(?:\d+(?:\.\d+)?(?:/\d+)?|∞)"
_SOLVED = re.compile(r"[a-z]_?[12]\s?=\s?-?[\d√(]")
"""x₁=0，x₂=3."""
_RIGHT_SIDE = r"[^=,。;\u4e00-\u9fff]*"
_IN_TERMS_OF = re.compile(rf"(?:^|[,。;:\n以为得])\s?[a-zA-Z]\s?={_RIGHT_SIDE}[a-zA-Z]{_RIGHT_SIDE}[。.]?$")
"""y=x+7."""
_X = r"(?<![a-zA-Z\d)+\-*/])(?:[a-zA-Z]|f\([a-z]\))"
_CONDITION = re.compile(
    rf"({_NUMBER})\s?([<≤])\s?{_X}\s?([<≤])\s?({_NUMBER})|([(\[])\s?({_NUMBER})\s?,\s?\+?({_NUMBER})\s?([)\]])|"
    rf"(?<![\d.])({_NUMBER})\s?([<>≤≥])\s?{_X}(?![a-zA-Z\d])|{_X}\s?([<>≤≥≠])\s?({_NUMBER})(?![\d.]*[a-zA-Z(])"
)
"""0<a≤10; [-1,2); 3<x; x≠2."""
_SAID = (
    ("(?:为|是)?正数", ">0"), ("(?:为|是)?负数", "<0"),
    ("大于或?等于|不小于", "≥"), ("小于或?等于|不大于", "≤"), ("大于", ">"), ("小于", "<"), ("不等于|不为", "≠"),
)  # fmt: skip
_SIGN_SAID = re.compile(rf"[不大小等于或]{{2,4}}\s?{_NUMBER}|[正负]数")
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
        if isinstance(gold, Expression):
            bounds, equation = bool(gold.bounds), "=" in gold.text
        else:
            bounds, equation = is_condition(text, question), is_equation(text, question)
        pick = _condition if bounds else _equation if equation else _formula
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
    if is_condition(text, question) or is_equation(text, question):
        return True
    bare, asked = text.strip(" 。."), question.text
    end = re.sub(r"(?<=[a-z)])\s?[\u4e00-\u9fff]{1,4}$", "", re.split("[=是为有得]", bare)[-1])
    letters = set(re.findall("[a-z]", end)) if re.fullmatch(r"[\da-zπ.+\-×*÷/()^√ ]{1,60}", end) else set()
    measured = re.fullmatch(r"[\d./ ]+([a-z]+)", end)
    unit = re.search("[a-z]/[a-z]$", end) or (measured and measured[1] in units.UNITS)  # 25 m/s, 2.01t
    known = letters <= {*_ALGEBRA.findall(asked), *"abcknpqrxyz"}
    if letters and known and not unit and not re.search("解.{0,6}方程", asked):
        return True  # 4a, a-3b, (45-a)人
    valued = re.search("的值|多少|几|求解", question.main.clause) or "求值" in asked
    return bool(_ASKED.search(asked) and not valued and _ALGEBRA.search(text))


def is_condition(text: str, question: Question) -> bool:
    """Whether a gold bounds an unknown where such is asked (not its whole or largest value)."""
    bare = text.strip(" 。.")
    if _SIGN_SAID.fullmatch(bare) or ("(" not in bare and _CONDITION.fullmatch(bare)):  # (1,2) is a point as well
        return True
    asked = _CONDITION_ASKED.search(question.text) and not re.search("整数解|[最几]", question.main.clause)
    return bool(asked and text and _condition(split(text)[-1]))


def is_equation(text: str, question: Question) -> bool:
    """Whether a gold ends in an equation where such is asked (not the value of an unknown)."""
    found = _equation(split(text)[-1] if text else "")
    if not found or _SOLVED.search(text):
        return False
    left, _, right = found[-1].text.partition("=")
    if not (_EQUATION_ASKED.search(question.text) or _IN_TERMS_OF.search(text) or found[-1].text == text.strip(" 。.")):
        return False
    if len(squeeze(left)) > 3 and squeeze(left) in question.plain:
        return False  # x²-9=(x+3)(x-3) where x²-9 is given
    return not re.fullmatch(r"\s?(?:[a-zA-Z]|[a-z]{2,3}\s?\(.*)\s?", left) or bool(_ALGEBRA.search(right))


def _plain(text: str) -> str:
    return re.sub("[⟦⟧]", "", strip_denied(text.rstrip(" .。")))


def _formula(text: str) -> list[Expression]:
    """The expression a statement ends in: of S=ab+c the right side."""
    plain = _plain(text)
    good = [f for m in _FORMULA.finditer(plain) if (f := m[0].strip()) and evaluate(f, _POINT) is not None]
    after = [f for f in good if re.search("[=:是为得]\\s?\\(?" + re.escape(f), plain)]
    return [Expression(f) for f in (after or good)[-1:]]


def _equation(text: str) -> list[Expression]:
    """The last equation in a statement."""
    found = [tuple(map(str.strip, m.groups())) for m in _EQUATION.finditer(_plain(text))]
    read = ["=".join(sides) for sides in found if all(evaluate(side, POINTS[0]) is not None for side in sides)]
    return [Expression(f) for f in read[-1:]]


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
