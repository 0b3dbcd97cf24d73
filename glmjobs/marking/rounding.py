"""Rounding: half away from zero, where a precision is asked and where none is."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from glmjobs.marking.precision import Precision
from glmjobs.marking.question import Question
from glmjobs.marking.values.arithmetic import PI, SCHOOL_PI, near
from glmjobs.marking.values.items import Quantity, endless


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
    if _ROUND.search(question.text) and (_by_pi(a, g, b, p) or _by_pi(b, p, a, g)):
        return True
    if question.precision is not None:
        return _rounded(a, question.precision) == _rounded(b, question.precision)
    return _is_rounding(a, g, b, p, question) or _is_rounding(b, p, a, g, question)


_ROUND = re.compile("圆(?!珠|圈)|球|弧|扇|[半直]径|[分时秒]针|轮|[栓拴]")


def _by_pi(school: Fraction, s: Quantity, exact: Fraction, e: Quantity) -> bool:
    """Whether one is worked out with 3.14 and the other with π, each as far as its decimals go."""
    if min(s.places, e.places) < 0 or (e.places == 0 and exact < 1000):
        return False  # as near as that by chance
    slack = Fraction(1, 2) / 10**e.places + (Fraction(1, 2) / 10**s.places if s.about else 0)
    return bool(abs(school / SCHOOL_PI * PI - exact) <= slack)


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
