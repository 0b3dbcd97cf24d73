"""Rounding: half away from zero, where a precision is asked and where none is."""

from __future__ import annotations

import math
from fractions import Fraction

from glmjobs.marking.precision import Precision
from glmjobs.marking.question import Question
from glmjobs.marking.values.arithmetic import near
from glmjobs.marking.values.items import Quantity, endless


def round_half_up(value: Fraction, places: int) -> Fraction:
    """四舍五入: half away from zero, to ``places`` decimals (negative: tens, hundreds)."""
    scale = Fraction(10) ** places
    sign = -1 if value < 0 else 1
    return sign * Fraction(math.floor(abs(value) * scale + Fraction(1, 2))) / scale


def round_significant(value: Fraction, digits: int) -> Fraction:
    """To ``digits`` significant digits, half away from zero."""
    return round_half_up(value, digits - 1 - math.floor(math.log10(abs(value)))) if value else value


def close(
    gold: Fraction, other: Fraction, g: Quantity, p: Quantity, question: Question, scale: Fraction
) -> bool:
    """Equality of two values in one unit; ``scale``: size of the unit that rounding refers to."""
    if gold == other or (g.form == p.form == "root" and near(gold, other)):
        return True
    a, b = gold / scale, other / scale
    if question.precision is not None:
        return _rounded_alike(a, b, question.precision, g)
    return _is_rounding(a, g, b, p, question) or _is_rounding(b, p, a, g, question)


def _rounded_alike(a: Fraction, b: Fraction, precision: Precision, g: Quantity) -> bool:
    if precision.significant:
        return round_significant(a, precision.significant) == round_significant(b, precision.significant)
    factor = 100 if precision.percent and g.form in ("percent", "fraction", "plain") and abs(a) <= 10 else 1
    return round_half_up(a * factor, precision.places) == round_half_up(b * factor, precision.places)


def _is_rounding(exact: Fraction, e: Quantity, short: Fraction, s: Quantity, question: Question) -> bool:
    """Whether ``short`` is ``exact`` rounded: an endless decimal to one place or more, others to two or more."""
    places = min(s.places, 8)  # as many as a computer's number holds for certain
    short = round_half_up(short, places) if s.places > places else short
    if s.form == "percent":
        exact, short, places = exact * 100, short * 100, places - 2
    if places < 0 or s.scaled:
        return False
    finer = endless(exact) or e.form in ("pi", "root") or e.vague
    digits = len(str(abs(round(short * 10**places)))) if places < 30 else 0
    if round_half_up(exact, places) != short:
        return bool(s.vague and places >= 2 and abs(exact - short) < Fraction(1, 10**places) and finer)
    if finer:
        return (
            (places >= 1 and digits >= 2) or s.vague or (question.approximate and places == 0 and digits >= 2)
        )
    if e.about and s.about and e.places > places >= 1:
        return True  # 约10.83倍 beside 大约10.8倍: both round something finer
    if s.about or question.approximate:
        return places >= 1 or (question.approximate and digits >= 2)
    return places >= 2 and e.places > places
