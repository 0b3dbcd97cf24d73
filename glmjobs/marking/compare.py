"""Whether two values are the same answer: exact, in one dimension, after the asked rounding."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from glmjobs.marking.question import RATES, Kind, Question
from glmjobs.marking.rounding import close, round_half_up
from glmjobs.marking.values import units
from glmjobs.marking.values.arithmetic import PI, SCHOOL_PI
from glmjobs.marking.values.items import Clock, Date, Item, Quantity, Ratio, Remainder
from glmjobs.marking.values.units import Unit

MONEY = ("CNY", "USD", "EUR", "GBP", "JPY", "HKD", "KRW")
_HOURS_TO_24 = re.compile(r"(?:1[3-9]|2[0-3])\s?[:时点]")


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
    return close(a.value, b.value, a, b, replace(question, precision=None), Fraction(1))


def _readings(q: Quantity, question: Question, beside: Quantity, *, gold: bool) -> list[Reading]:
    """Every way to read a quantity under the question's expectations, beside the one it is compared with."""
    expect, value, kind = question.main.expect, q.value, question.kind
    if q.form == "percent":
        return [Reading(value, "rate")]
    if not q.units and kind in (Kind.DISCOUNT, Kind.TENTHS):
        return [Reading(value / size, "rate") for size in (1, 10, 100)]
    share = kind is Kind.RATE and value > 1 and (gold or beside.form == "percent")  # 96, where 合格率 is 96%
    if not q.units and (kind is Kind.PERCENT or share):
        return [Reading(value, "rate"), Reading(value / 100, "rate")]
    fit = [u for u in q.units if u.dim in expect.dims] or list(q.units or expect.units)
    if not q.units and not q.scaled:
        value *= expect.multiplier
    if not fit:
        return [Reading(q.value), Reading(value)]
    if expect.per:  # 60千米 beside 60千米/时 where the question says 每小时
        fit += units.per(fit, list(expect.per))
    elif "/" in fit[0].name and beside.units and "/" not in beside.units[0].name:
        fit += units.UNITS[fit[0].name.partition("/")[0]]  # where it only says 速度
    return [Reading(value * u.factor, "rate" if u.dim == "times" else u.dim, u) for u in fit]


def quantities(g: Quantity, p: Quantity, question: Question) -> Match:
    """Whether prediction ``p`` equals gold ``g``."""
    g, p = _decimal_pi(g, p), _decimal_pi(p, g)
    reason = "other value"
    for gold in _readings(g, question, p, gold=True):
        for other in _readings(p, question, g, gold=False):
            if (gold.dim and other.dim and gold.dim != other.dim) or _foreign(gold, other, question):
                reason = "other unit"
            elif _equal(gold, other, g, p, question):
                return Match(True, "same value")
    return Match(False, reason)


def _decimal_pi(q: Quantity, beside: Quantity) -> Quantity:
    """12π beside a decimal becomes 12 × 3.14 (the schoolbook value), or π itself where that fits better."""
    if q.form != "pi" or beside.form == "pi":
        return q
    school = q.value * SCHOOL_PI
    fits = beside.value in (school, round_half_up(school, max(beside.places, 0)))
    return replace(q, value=school if fits else q.value * PI)


def _foreign(gold: Reading, other: Reading, question: Question) -> bool:
    """Whether a bare value stands beside money of a country that the question does not name."""
    named = [dim for dim in question.context if dim in MONEY]
    return bool(named) and "" in (gold.dim, other.dim) and gold.dim + other.dim in set(MONEY[1:]) - set(named)


def _equal(gold: Reading, other: Reading, g: Quantity, p: Quantity, question: Question) -> bool:
    """Equality of two readings of one dimension; where one side has no unit, in the other's own."""
    expect = question.main.expect
    scale = gold.unit.factor if gold.unit else Fraction(1)
    if gold.dim == other.dim:
        scale = next((u.factor * expect.multiplier for u in expect.units if u.dim == gold.dim), scale)
        return close(gold.value, other.value, g, p, question, scale)
    own = other.unit.factor if other.unit else Fraction(1)
    return close(gold.value / scale, other.value / own, g, p, question, Fraction(1))


def _clocks(g: Clock, p: Clock, question: Question) -> bool:
    """The same time; where one side leaves 上午/下午 open, modulo twelve hours."""
    if "计时法" in question.text:
        return g.seconds == p.seconds
    if p.half and (g.half or _HOURS_TO_24.search(question.text)):
        return g.seconds == p.seconds  # the question counts hours to 24, and so does its gold
    return (g.seconds - p.seconds) % 43200 == 0


def items(g: Item, p: Item, question: Question) -> Match:
    """Whether two values of any kinds are the same."""
    if isinstance(g, Quantity) and isinstance(p, Remainder) and "余" not in question.main.clause:
        p = Quantity(p.quotient, (), p.start, p.end)  # 12盒，余4支 where 几盒 is asked
    if isinstance(g, Quantity) and isinstance(p, Quantity):
        return quantities(g, p, question)
    if isinstance(g, Ratio) and isinstance(p, Ratio):
        same = len(g.terms) == len(p.terms) and all(
            a * p.terms[0] == b * g.terms[0] for a, b in zip(g.terms, p.terms, strict=True)
        )
        same = same and (all(g.terms) or g.terms == p.terms)  # 14:00 is not 2:00
        return Match.of(same, "ratio")
    if isinstance(g, Remainder) and isinstance(p, Remainder):
        return Match.of((g.quotient, g.remainder) == (p.quotient, p.remainder), "quotient and remainder")
    if isinstance(g, Clock) and isinstance(p, Clock):
        return Match.of(_clocks(g, p, question), "time")
    if isinstance(g, Date) and isinstance(p, Date):
        alike = (g.weekday, g.month, g.day) == (p.weekday, p.month, p.day)
        return Match.of(alike and (not g.year or not p.year or g.year == p.year), "date")
    for ratio, other in ((g, p), (p, g)):
        if isinstance(ratio, Ratio) and isinstance(other, Quantity) and question.kind in RATES:
            return Match.of(ratio.terms == (other.value * ratio.terms[1], *ratio.terms[1:2]), "ratio")
    return Match(False, "other kind of value")
