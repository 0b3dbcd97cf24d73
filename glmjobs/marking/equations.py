"""Worked solutions with an equation that does not hold: golds that contradict themselves."""

from __future__ import annotations

import re
from fractions import Fraction

from glmjobs.marking.normalise import normalise
from glmjobs.marking.values.arithmetic import evaluate

_UNIT_WORD = re.compile(r"\([\u4e00-\u9fff]{1,4}\)|(?<=[\d)])(?!余)[\u4e00-\u9fff]{1,3}(?:(?=余)|(?![\u4e00-\u9fff]))")
_SIDE = r"[-+×*÷/()\d.%^ ]{1,120}"
_EQUATION = re.compile(rf"(?<![a-zA-Z\d_.^√π+×*÷/()第 -])(?<!\d:)({_SIDE})([=≈])(?=({_SIDE})(余\s*\d{{1,18}})?(.?))")
_OPERATOR = re.compile(r"\d\)?%?\s*[-+×*÷/]\s*\(?\d")
_DIVISION = re.compile(r"\s*(\d{1,18})\s*÷\s*(\d{1,18})\s*")


def gold_has_false_equation(solution: str) -> bool:
    """Whether a worked solution contains an arithmetic equation that does not hold.

    Rounded decimals (10÷3=3.33) and remainders that fit (25÷9=2余7) hold; equations with letters are not
    judged.

    >>> gold_has_false_equation("15 - 6 = 9，所以剩9颗"), gold_has_false_equation("3×7=24")
    (False, True)
    """
    plain = re.sub(r"\.{3,}|…+", "余", re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", normalise(solution)))
    for equation in _EQUATION.finditer(_UNIT_WORD.sub(" ", plain)):
        left, sign, right, rest, after = equation.groups()
        if rest:
            division = _DIVISION.fullmatch(left)
            if division and right.strip().isdecimal():
                n, d, q, r = int(division[1]), int(division[2]), int(right[:18]), int(rest[1:])
                if not d or n != d * q + r or r >= d:
                    return True
        elif not re.match("[a-zA-Z√π余万亿:又]", after) and _false(left, sign, right):
            return True
    return False


def _false(left: str, sign: str, right: str) -> bool:
    """Whether two sides differ; a decimal on the right may be rounded."""
    a, b = evaluate(left), evaluate(right.rstrip(" ."))
    if a is None or b is None or not _OPERATOR.search(f"{left}={right}"):
        return False  # 1小时=60分钟 converts; only arithmetic can be false here
    decimal = re.fullmatch(r"-?\d+\.(\d+)", right.strip())
    if sign == "=" and not decimal:
        return a != b
    return abs(a - b) >= (Fraction(1, 10 ** len(decimal[1])) if decimal else max(Fraction(1), abs(a) / 1000))
