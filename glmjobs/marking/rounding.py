"""Rounding: half away from zero, where a precision is asked and where none is."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from glmjobs.marking.precision import Precision
from glmjobs.marking.question import Question
from glmjobs.marking.values.arithmetic import near
from glmjobs.marking.values.items import Quantity, endless

SCHOOL_PI, PI = Fraction(314, 100), Fraction(math.pi)
"""As schoolbooks take it, and as it is."""


def round_half_up(value: Fraction, places: int) -> Fraction:
    """四舍五入: half away from zero, to ``places`` decimals (negative: tens, hundreds)."""
    scale = Fraction(10) ** places
    return (-1 if value < 0 else 1) * Fraction(math.floor(abs(value) * scale + Fraction(1, 2))) / scale


def close(
    gold: Fraction, other: Fraction, g: Quantity, p: Quantity, question: Question, scale: Fraction
) -> bool:
    """Equality of two values in one unit; ``scale``: size of the unit that rounding refers to."""
    if gold == other or (g.form == p.form == "root" and near(gold, other)):
        return True
    a, b = gold / scale, other / scale
    finer = p.places > g.places >= 0 and re.search("圆|球", question.text)
    if finer and round_half_up(a / SCHOOL_PI * PI, p.places) == b:
        return True  # by 3.14 and by π
    if question.precision is not None:
        return _rounded(a, question.precision) == _rounded(b, question.precision)
    return _is_rounding(a, g, b, p, question) or _is_rounding(b, p, a, g, question)


def _rounded(value: Fraction, precision: Precision) -> Fraction:
    if precision.significant:
        size = math.floor(math.log10(abs(value))) if value else 0
        return round_half_up(value, precision.significant - 1 - size)
    return round_half_up(value * (100 if precision.percent else 1), precision.places)


def _is_rounding(exact: Fraction, e: Quantity, short: Fraction, s: Quantity, question: Question) -> bool:
    """Whether ``short`` is ``exact`` rounded: an endless decimal to one place or more, others to two or more."""
    places = min(s.places, 8)  # as many as a computer's number holds for certain
    short = round_half_up(short, places) if s.places > places else short
    if s.form == "percent":
        exact, short, places = exact * 100, short * 100, places - 2
    finer = endless(exact) or e.form in ("pi", "root") or e.vague
    if places < 0 or round_half_up(exact, places) != short:
        return s.vague and finer and places >= 2 and abs(exact - short) < Fraction(1, 10**places)
    if abs(short) * Fraction(10) ** places < 10:
        return s.vague  # one digit is no rounding: 0.3 of 1/3
    if question.approximate or s.vague:
        return True
    return (places >= 1 and (finer or s.about)) or e.places > places >= 2
