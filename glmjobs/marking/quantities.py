"""Whether two values are the same answer: exact, in one dimension, after the asked rounding."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from glmjobs.marking.question import Precision, Question
from glmjobs.marking.values import units
from glmjobs.marking.values.scan import Clock, Date, Item, Quantity, Ratio, Remainder, scan
from glmjobs.marking.values.units import Unit

RATES = ("percent", "rate", "discount", "tenths", "ratio")
MONEY = ("CNY", "USD", "EUR", "GBP", "JPY", "HKD", "KRW")
PI = Fraction(314, 100)
_PI = Fraction(math.pi)
_COUNTED = ("count",)

Reading = tuple[Fraction, str, Unit | None]
"""Value in the base unit of its dimension, the dimension ("" where unknown), the unit."""


def round_half_up(value: Fraction, places: int) -> Fraction:
    """四舍五入: half away from zero, to ``places`` decimals (negative: tens, hundreds)."""
    scale = Fraction(10) ** places
    sign = -1 if value < 0 else 1
    return sign * Fraction(math.floor(abs(value) * scale + Fraction(1, 2))) / scale


def round_significant(value: Fraction, digits: int) -> Fraction:
    """To ``digits`` significant digits, half away from zero."""
    if value == 0:
        return value
    return round_half_up(value, digits - 1 - math.floor(math.log10(abs(value))))


def close(
    gold: Fraction, other: Fraction, g: Quantity, p: Quantity, question: Question, scale: Fraction
) -> bool:
    """Equality of two values in one unit; ``scale``: size of the unit that rounding refers to."""
    if gold == other:
        return True
    if g.form == p.form == "root":  # 2√2 and √8, each to 30 decimals
        return abs(gold - other) < abs(gold) / 10**20
    a, b = gold / scale, other / scale
    precision = question.precision
    if precision is not None:
        return _rounded_alike(a, b, precision, g)
    return _is_rounding(a, g, b, p, question) or _is_rounding(b, p, a, g, question)


def _rounded_alike(a: Fraction, b: Fraction, precision: Precision, g: Quantity) -> bool:
    if precision.significant:
        return round_significant(a, precision.significant) == round_significant(b, precision.significant)
    factor = 100 if precision.percent and g.form in ("percent", "fraction", "plain") and abs(a) <= 10 else 1
    return round_half_up(a * factor, precision.places) == round_half_up(b * factor, precision.places)


def _endless(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest != 1


def _is_rounding(exact: Fraction, e: Quantity, short: Fraction, s: Quantity, question: Question) -> bool:
    """Whether ``short`` is ``exact`` rounded: an endless decimal to one place or more, others to two or
    more."""
    places = s.places
    if s.form == "percent":
        exact, short, places = exact * 100, short * 100, places - 2
    if places < 0 or s.scaled:
        return False
    finer = _endless(exact) or e.form in ("pi", "root") or e.vague
    digits = len(str(abs(round(short * 10**places)))) if places < 30 else 0
    if round_half_up(exact, places) != short:
        return bool(s.vague and places >= 2 and abs(exact - short) < Fraction(1, 10**places) and finer)
    if finer:
        return (
            (places >= 1 and digits >= 2) or s.vague or (question.approximate and places == 0 and digits >= 2)
        )
    if s.about or question.approximate:
        return places >= 1 or (question.approximate and digits >= 2)
    return places >= 2 and e.places > places


def readings(q: Quantity, question: Question, bare_percent: bool) -> list[Reading]:
    """Every way to read a quantity under the question's expectations."""
    expect = question.main.expect
    if q.form == "percent":
        return [(q.value, "rate", None)]
    if q.units:
        fit = [u for u in q.units if u.dim in expect.dims] or list(q.units)
        if fit[0].name == "个":
            fit = [*fit, *(u for u in expect.units if u.dim == "count" and u.name != "个")]
        result: list[Reading] = [(q.value * u.factor, "rate" if u.dim == "times" else u.dim, u) for u in fit]
        if q.per:
            result = [(q.value * u.factor, u.dim, u) for u in units.per(fit, list(q.per))]
        return result
    value = q.value
    if question.kind in ("discount", "tenths"):
        return [(value / (10 if abs(value) <= 10 else 100), "rate", None), (value, "rate", None)]
    if question.kind == "percent":
        return [(value, "rate", None), (value / 100, "rate", None)]
    if question.kind == "rate" and bare_percent and value > 1:
        return [(value, "rate", None), (value / 100, "rate", None)]
    if expect.units and question.kind not in RATES:
        factor = 1 if q.scaled and expect.multiplier > 1 else expect.multiplier
        return [(value * u.factor * factor, "rate" if u.dim == "times" else u.dim, u) for u in expect.units]
    if expect.multiplier > 1 and not q.scaled:
        return [(value * expect.multiplier, "", None), (value, "", None)]
    return [(value, "", None)]


def quantities(g: Quantity, p: Quantity, question: Question) -> tuple[bool, str]:
    """Whether prediction ``p`` equals gold ``g``; the reason where not."""
    g, p = _pi(g, p, question)
    reason = "other value"
    for gold in readings(g, question, True):
        for other in readings(p, question, False):
            verdict = _pair(gold, other, g, p, question)
            if verdict == "":
                return True, "same value"
            if verdict == "unit":
                reason = "other unit"
    return False, reason


def _pi(g: Quantity, p: Quantity, question: Question) -> tuple[Quantity, Quantity]:
    """12π beside a decimal becomes 12 × 3.14 (the schoolbook value), or π itself where that fits better."""
    from dataclasses import replace

    def decimal(q: Quantity, beside: Quantity) -> Quantity:
        school = q.value * PI
        value = (
            school
            if school == beside.value or round_half_up(school, max(beside.places, 0)) == beside.value
            else q.value * _PI
        )
        return replace(q, value=value)

    if g.form == "pi" and p.form != "pi":
        return decimal(g, p), p
    if p.form == "pi" and g.form != "pi":
        return g, decimal(p, g)
    return g, p


def _pair(gold: Reading, other: Reading, g: Quantity, p: Quantity, question: Question) -> str:
    """ "" where equal, "unit" or "value" where not."""
    (a, dim_a, unit_a), (b, dim_b, unit_b) = gold, other
    scale = _scale(dim_a, unit_a, question)
    if dim_a == dim_b or (dim_a in _COUNTED and dim_b in _COUNTED):
        if dim_a in _COUNTED and unit_a and unit_b and not units.count_agrees(unit_a, unit_b):
            return "unit"
        return "" if close(a, b, g, p, question, scale) else "value"
    if dim_a and dim_b:
        return _across(gold, other, g, p, question)
    return _one_bare(gold, other, g, p, question)


def _scale(dim: str, unit: Unit | None, question: Question) -> Fraction:
    expect = question.main.expect
    for u in expect.units:
        if u.dim == dim:
            return u.factor * expect.multiplier
    return unit.factor if unit else Fraction(1)


def _numerator(unit: Unit | None) -> Unit | None:
    if unit is None or "/" not in unit.name:
        return None
    found = units.UNITS.get(unit.name.split("/")[0])
    return found[0] if found else None


def _across(gold: Reading, other: Reading, g: Quantity, p: Quantity, question: Question) -> str:
    """Different dimensions: 60千米/时 beside 60千米 where the question (or the other side) says 每小时; 分
    of time …."""
    (a, dim_a, _unit_a), (b, dim_b, _unit_b) = gold, other
    for compound, plain, flip in ((gold, other, False), (other, gold, True)):
        top = _numerator(compound[2])
        if top is None or plain[1] != top.dim:
            continue
        expect = question.main.expect
        if expect.per and plain[2] is not None:
            for rate in units.per([plain[2]], list(expect.per)):
                value = plain[0] / plain[2].factor * rate.factor
                if rate.dim == compound[1]:
                    x, y = (value, compound[0]) if flip else (compound[0], value)
                    return "" if close(x, y, g, p, question, rate.factor) else "value"
        if compound is other and not re.search("每|速度|平均", question.main.clause):
            return "unit"
        compound_value = (p if flip else g).value * top.factor
        x, y = (plain[0], compound_value) if flip else (compound_value, plain[0])
        return "" if close(x, y, g, p, question, top.factor) else "value"
    if {dim_a, dim_b} == {"age", "months"} and question.main.expect.dim != "months":
        years = (a, b / 12) if dim_a == "age" else (a / 12, b)
        return "" if years[0] == years[1] else "value"
    return "unit"


def _one_bare(gold: Reading, other: Reading, g: Quantity, p: Quantity, question: Question) -> str:
    """One side has no unit and the question names none: the question's dimension and its own units decide."""
    (a, dim_a, _), (b, _dim_b, _) = gold, other
    bare, full, flip = (a, other, False) if not dim_a else (b, gold, True)
    value, dim, unit = full
    x, y = (value, bare) if flip else (bare, value)
    if dim == "rate":
        if (
            question.kind not in RATES
            and "percent" in (g.form, p.form)
            and not (g.form == "percent" and p.form == "fraction")
        ):
            return "unit"
        return "" if close(x, y, g, p, question, Fraction(1)) else "value"
    expected = question.main.expect.dim
    if question.kind in RATES:
        return "unit"
    if dim in MONEY and unit is not None and _foreign(unit, question):
        return "unit"
    if (
        expected
        and dim != expected
        and not (expected in MONEY and dim in MONEY)
        and not (expected == "speed" and dim in ("length", "speed"))
    ) and not (expected == "age" or flip):
        return "unit"
    factor = unit.factor if unit else Fraction(1)
    candidates = [u.factor for u in question.context.get(dim, [])] if expected and not flip else []
    plain = value / factor
    for size in {*candidates} or {factor}:
        x, y = (value / size, bare) if flip else (bare, value / size)
        if close(x, y, g, p, question, Fraction(1)):
            return ""
    if flip and close(plain, bare, g, p, question, Fraction(1)):
        return ""
    return "value"


def _foreign(unit: Unit, question: Question) -> bool:
    """Whether money is named in a currency that the question doesn't use (元 alone may stand for any)."""
    used = {dim for dim in question.context if dim in MONEY}
    return bool(used) and unit.dim not in used and unit.name not in ("元", "块", "块钱", "圆", "元钱")


def ratios(g: Ratio, p: Ratio) -> bool:
    """Proportional, in order."""
    if len(g.terms) != len(p.terms) or not all(g.terms) or not all(p.terms):
        return g.terms == p.terms
    return all(a * p.terms[0] == b * g.terms[0] for a, b in zip(g.terms, p.terms, strict=True))


def clocks(g: Clock, p: Clock, question: Question) -> bool:
    """The same time; where one side leaves 上午/下午 open, modulo twelve hours (unless the question is of a
    morning)."""
    if g.half and p.half:
        return g.seconds == p.seconds
    if not g.half and p.half and re.search(r"(?:1[3-9]|2[0-3])\s?[:时点]", question.text):
        return g.seconds == p.seconds  # the question counts hours to 24, and so does its gold
    starts = [c.seconds for c in scan(question.text, "clock") if isinstance(c, Clock)]
    morning = re.search("早|上午|清晨", question.text) and not re.search("下午|晚|中午|夜", question.text)
    if morning and starts and g.seconds >= starts[0] and p.half and p.seconds >= 43200 > g.seconds:
        return False
    return (g.seconds - p.seconds) % 43200 == 0


def dates(g: Date, p: Date) -> bool:
    """The same as far as both are written."""
    return (g.weekday, g.month, g.day) == (p.weekday, p.month, p.day) and (
        not g.year or not p.year or g.year == p.year
    )


def _told(same: bool, what: str) -> tuple[bool, str]:
    return same, f"{'same' if same else 'other'} {what}"


def items(g: Item, p: Item, question: Question) -> tuple[bool, str]:
    """Two values of any kinds."""
    if isinstance(g, Quantity) and isinstance(p, Quantity):
        return quantities(g, p, question)
    if isinstance(g, Ratio) and isinstance(p, Ratio):
        return _told(ratios(g, p), "ratio")
    if isinstance(g, Remainder) and isinstance(p, Remainder):
        same = (g.quotient, g.remainder) == (p.quotient, p.remainder)
        return same, "same quotient and remainder" if same else "other quotient or remainder"
    if isinstance(g, Clock) and isinstance(p, Clock):
        return _told(clocks(g, p, question), "time")
    if isinstance(g, Date) and isinstance(p, Date):
        return _told(dates(g, p), "date")
    pair = {type(g), type(p)}
    if pair == {Ratio, Quantity}:
        ratio, other = (g, p) if isinstance(g, Ratio) else (p, g)
        assert isinstance(ratio, Ratio) and isinstance(other, Quantity)
        if len(ratio.terms) == 2 and ratio.terms[1] and not other.units and question.kind in RATES:
            same = ratio.terms[0] / ratio.terms[1] == other.value
            return same, "same ratio" if same else "other ratio"
    return False, "other kind of value"
