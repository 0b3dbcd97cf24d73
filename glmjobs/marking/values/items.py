"""The kinds of value that stand in a text, each with where it stands (``text[start:end]``)."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from glmjobs.marking.values.units import Unit


@dataclass(frozen=True)
class Quantity:
    """A number with the readings of its unit (none: no unit written).

    ``form``: plain, fraction, percent, pi or root; ``places``: decimals as written, -1 for an exact form without;
    ``scaled``: written with 万 or 亿; ``vague``: 300多, 0.333…; ``about``: after ≈ or 约;
    ``result``: right of an equals sign.
    """

    value: Fraction
    units: tuple[Unit, ...]
    start: int
    end: int
    form: str = "plain"
    places: int = 0
    scaled: bool = False
    vague: bool = False
    result: bool = False
    about: bool = False

    def __str__(self) -> str:
        said = f"≈{float(self.value):.6g}" if self.form == "root" else show(self.value)
        return f"{said}{'π' if self.form == 'pi' else ''}{self.units[0].name if self.units else ''}"


@dataclass(frozen=True)
class Ratio:
    """3:4 or 1:2:3, in order."""

    terms: tuple[Fraction, ...]
    start: int
    end: int

    def __str__(self) -> str:
        return ":".join(show(t) for t in self.terms)


@dataclass(frozen=True)
class Remainder:
    """The two results of a division: 3……2."""

    quotient: Fraction
    remainder: Fraction
    start: int
    end: int

    def __str__(self) -> str:
        return f"{show(self.quotient)}……{show(self.remainder)}"


@dataclass(frozen=True)
class Clock:
    """Seconds since midnight; ``half``: whether 上午/下午 or a 24-hour time fixes the half of the day."""

    seconds: int
    half: bool
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.seconds // 3600}:{self.seconds // 60 % 60:02d}"


@dataclass(frozen=True)
class Date:
    """A calendar date as far as written, or a weekday (1 to 7)."""

    year: int
    month: int
    day: int
    weekday: int
    start: int
    end: int

    def __str__(self) -> str:
        if self.weekday:
            return f"星期{self.weekday}"
        return f"{self.year or ''}-{self.month}-{self.day}".lstrip("-")


Item = Quantity | Ratio | Remainder | Clock | Date


def endless(value: Fraction) -> bool:
    """Whether its decimals have no end."""
    return pow(10, value.denominator.bit_length(), value.denominator) != 0


def show(value: Fraction) -> str:
    """A short exact form: 3, 2.5, 7/3."""
    short = value.denominator == 1 or endless(value) or value.denominator > 10**6
    return str(value) if short else f"{float(value):.10f}".rstrip("0").rstrip(".")
