"""Whether two values are the same answer: exact, in one dimension, after the asked rounding."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction

from glmjobs.marking.question import RATES, Kind, Question
from glmjobs.marking.rounding import close, round_half_up
from glmjobs.marking.values import units
from glmjobs.marking.values.items import Clock, Date, Item, Quantity, Ratio, Remainder
from glmjobs.marking.values.scan import scan
from glmjobs.marking.values.units import Unit

MONEY = ("CNY", "USD", "EUR", "GBP", "JPY", "HKD", "KRW")
_SCHOOL_PI = Fraction(314, 100)
_PI = Fraction(math.pi)


@dataclass(frozen=True)
class Match:
    """Whether two answers are the same, and why."""

    same: bool
    reason: str

    @classmethod
    def of(cls, same: bool, what: str) -> Match:
        """same WHAT, other WHAT."""
        return cls(same, f"{'same' if same else 'other'} {what}")


@dataclass(frozen=True)
class Reading:
    """One way to read a quantity: its value in the base unit of ``dim`` ("" where unknown)."""

    value: Fraction
    dim: str = ""
    unit: Unit | None = None


def rounds_to(a: Quantity, b: Quantity, question: Question) -> bool:
    """Whether one of two values in one unit is the other's rounding (50/3元，即16.67元)."""
    alike = a.units == b.units or not a.units or not b.units
    return alike and close(a.value, b.value, a, b, replace(question, precision=None), Fraction(1))


def _readings(q: Quantity, question: Question, *, gold: bool) -> list[Reading]:
    """Every way to read a quantity under the question's expectations."""
    expect = question.main.expect
    if q.form == "percent":
        return [Reading(q.value, "rate")]
    if q.units:
        fit = [u for u in q.units if u.dim in expect.dims] or list(q.units)
        if fit[0].name == "个":
            fit += [u for u in expect.units if u.dim == "count" and u.name != "个"]
        fit = units.per(fit, list(q.per)) if q.per else fit
        return [Reading(q.value * u.factor, "rate" if u.dim == "times" else u.dim, u) for u in fit]
    value, kind = q.value, question.kind
    if kind in (Kind.DISCOUNT, Kind.TENTHS):
        return [Reading(value / (10 if abs(value) <= 10 else 100), "rate"), Reading(value, "rate")]
    if kind is Kind.PERCENT or (kind is Kind.RATE and gold and value > 1):
        return [Reading(value, "rate"), Reading(value / 100, "rate")]
    if expect.units and kind not in RATES:
        value *= 1 if q.scaled else expect.multiplier
        return [Reading(value * u.factor, "rate" if u.dim == "times" else u.dim, u) for u in expect.units]
    scaled = [Reading(value * expect.multiplier)] if expect.multiplier > 1 and not q.scaled else []
    return [*scaled, Reading(value)]


def quantities(g: Quantity, p: Quantity, question: Question) -> Match:
    """Whether prediction ``p`` equals gold ``g``."""
    g, p = _decimal_pi(g, p)
    reason = "other value"
    for gold in _readings(g, question, gold=True):
        for other in _readings(p, question, gold=False):
            found = _pair(gold, other, g, p, question)
            if found is True:
                return Match(True, "same value")
            if found is None:
                reason = "other unit"
    return Match(False, reason)


def _decimal_pi(g: Quantity, p: Quantity) -> tuple[Quantity, Quantity]:
    """12π beside a decimal becomes 12 × 3.14 (the schoolbook value), or π itself where that fits better."""

    def decimal(q: Quantity, beside: Quantity) -> Quantity:
        angle = next((u for u in beside.units if u.dim == "angle"), None)
        if angle and not q.units:
            return replace(q, value=q.value * 180 / angle.factor, units=(angle,), form="fraction")  # π/3, 60°
        school = q.value * _SCHOOL_PI
        fits = beside.value in (school, round_half_up(school, max(beside.places, 0)))
        return replace(q, value=school if fits else q.value * _PI)

    if g.form == "pi" and p.form != "pi":
        return decimal(g, p), p
    return (g, decimal(p, g)) if p.form == "pi" and g.form != "pi" else (g, p)


def _pair(gold: Reading, other: Reading, g: Quantity, p: Quantity, question: Question) -> bool | None:
    """Whether two readings are equal; None where their units differ."""
    if gold.dim == other.dim:
        return close(gold.value, other.value, g, p, question, _scale(gold, question))
    if gold.dim and other.dim:
        return _across(gold, other, g, p, question)
    return _one_bare(gold, other, g, p, question)


def _scale(gold: Reading, question: Question) -> Fraction:
    expect = question.main.expect
    for u in expect.units:
        if u.dim == gold.dim:
            return u.factor * expect.multiplier
    return gold.unit.factor if gold.unit else Fraction(1)


def _across(gold: Reading, other: Reading, g: Quantity, p: Quantity, question: Question) -> bool | None:
    """Different dimensions: 60千米/时 beside 60千米 where the question says 每小时; years beside months."""
    expect = question.main.expect
    for compound, plain in ((gold, other), (other, gold)):
        name = compound.unit.name.split("/") if compound.unit else []
        top = units.UNITS.get(name[0], [None])[0] if len(name) > 1 else None
        if top is None or plain.unit is None or plain.dim != top.dim:
            continue
        for rate in units.per([plain.unit], list(expect.per)):
            if rate.dim == compound.dim:
                value = plain.value / plain.unit.factor * rate.factor
                pair = (value, compound.value) if plain is gold else (compound.value, value)
                return close(*pair, g, p, question, rate.factor)
        if compound is other and not re.search("每|速度|平均", question.main.clause):
            return None
        value = (g if compound is gold else p).value * top.factor
        pair = (plain.value, value) if plain is gold else (value, plain.value)
        return close(*pair, g, p, question, top.factor)
    return None


def _one_bare(gold: Reading, other: Reading, g: Quantity, p: Quantity, question: Question) -> bool | None:
    """One side has no unit and the question names none: its dimension and its own units decide."""
    full, bare = (other, gold) if not gold.dim else (gold, other)
    gold_is_full = full is gold
    if full.dim == "rate":
        shares = "percent" in (g.form, p.form) and not (g.form == "percent" and p.form == "fraction")
        if question.kind not in RATES and shares:
            return None
        return close(gold.value, other.value, g, p, question, Fraction(1))
    used = {dim for dim in question.context if dim in MONEY}
    foreign = full.dim in MONEY and used and full.dim not in used
    if question.kind in RATES or (foreign and not str(full.unit and full.unit.name).startswith(("元", "块"))):
        return None
    factor = full.unit.factor if full.unit else Fraction(1)
    context = question.context.get(full.dim, []) if question.main.expect.dim and not gold_is_full else []
    for size in {u.factor for u in context} or {factor}:
        value = full.value / size
        pair = (value, bare.value) if gold_is_full else (bare.value, value)
        if close(*pair, g, p, question, Fraction(1)):
            return True
    return gold_is_full and close(full.value / factor, bare.value, g, p, question, Fraction(1))


def _clocks(g: Clock, p: Clock, question: Question) -> bool:
    """The same time; where one side leaves 上午/下午 open, modulo twelve hours (unless it is of a morning)."""
    if g.half and p.half:
        return g.seconds == p.seconds
    if not g.half and p.half and re.search(r"(?:1[3-9]|2[0-3])\s?[:时点]", question.text):
        return g.seconds == p.seconds  # the question counts hours to 24, and so does its gold
    starts = [c.seconds for c in scan(question.text, "clock") if isinstance(c, Clock)]
    morning = re.search("早|上午|清晨", question.text) and not re.search("下午|晚|中午|夜", question.text)
    if morning and starts and g.seconds >= starts[0] and p.half and p.seconds >= 43200 > g.seconds:
        return False
    return (g.seconds - p.seconds) % 43200 == 0


def _ratios(g: Ratio, p: Ratio) -> bool:
    """Proportional, in order."""
    if len(g.terms) != len(p.terms) or not all(g.terms) or not all(p.terms):
        return g.terms == p.terms
    return all(a * p.terms[0] == b * g.terms[0] for a, b in zip(g.terms, p.terms, strict=True))


def items(g: Item, p: Item, question: Question) -> Match:
    """Whether two values of any kinds are the same."""
    if isinstance(g, Quantity) and isinstance(p, Remainder):  # 12盒，余4支 where 几盒 is asked
        p = Quantity(p.remainder if "余" in question.main.clause else p.quotient, (), p.start, p.end)
    if isinstance(g, Quantity) and isinstance(p, Quantity):
        return quantities(g, p, question)
    if isinstance(g, Ratio) and isinstance(p, Ratio):
        return Match.of(_ratios(g, p), "ratio")
    if isinstance(g, Remainder) and isinstance(p, Remainder):
        same = (g.quotient, g.remainder) == (p.quotient, p.remainder)
        return Match(same, "same quotient and remainder" if same else "other quotient or remainder")
    if isinstance(g, Clock) and isinstance(p, Clock):
        return Match.of(_clocks(g, p, question), "time")
    if isinstance(g, Date) and isinstance(p, Date):
        alike = (g.weekday, g.month, g.day) == (p.weekday, p.month, p.day)
        return Match.of(alike and (not g.year or not p.year or g.year == p.year), "date")
    for ratio, other in ((g, p), (p, g)):
        pair = isinstance(ratio, Ratio) and isinstance(other, Quantity) and question.kind in RATES
        if pair and len(ratio.terms) == 2 and ratio.terms[1] and not other.units:  # type: ignore[union-attr]
            return Match.of(ratio.terms[0] / ratio.terms[1] == other.value, "ratio")  # type: ignore[union-attr]
    return Match(False, "other kind of value")
