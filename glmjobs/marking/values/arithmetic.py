"""Arithmetic read exactly: 15-6, (3+5)×2, 2(a+b), 2^10, 5!; roots to 30 decimals where they are not rational."""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_LENGTH = 160
FACTORIAL = "ꜝ"
"""The sign of a factorial, which :mod:`~glmjobs.marking.normalise` tells from an exclamation mark."""
ROOT_DIGITS = 30
SCHOOL_PI, PI = Fraction(314, 100), Fraction(math.pi)
"""As schoolbooks take it, and as it is."""
_TOKEN = re.compile(r"\d+(?:\.\d+)?%?|\S")
_OPENS = ("(", "[", "√")
_MAX_BRACKETS = 20
_LARGEST = 2000
"""Binary digits of the largest power that is worked out."""
_LARGEST_FACTORIAL = 150


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """A whole power.

    Raises:
        ValueError: it is no whole one, or too large.
    """
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or size * abs(exponent) > _LARGEST:
        raise ValueError("power")
    return base ** int(exponent)


def root(value: Fraction) -> Fraction:
    """The square root, to 30 decimals where it is not rational.

    Raises:
        ValueError: of a negative number.
    """
    bottom = math.isqrt(value.denominator)
    if bottom * bottom != value.denominator or math.isqrt(value.numerator) ** 2 != value.numerator:
        bottom = value.denominator * 10**ROOT_DIGITS
    return Fraction(math.isqrt(value.numerator * bottom * bottom // value.denominator), bottom)


class _Reader:
    """Recursive descent over one expression; ``values`` gives letters their values."""

    def __init__(self, source: str, values: dict[str, Fraction]):
        found = list(_TOKEN.finditer(source, 0, MAX_LENGTH))
        self.tokens = [m[0] for m in found]
        self.ends = [0, *(m.end() for m in found)]
        self.values = values
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, signs: str) -> str:
        """The next token if it is one of ``signs``, else ""."""
        token = self.peek()
        if not token or token not in signs:
            return ""
        self.at += 1
        return token

    def sum(self) -> Fraction:
        value = self.product()
        while sign := self.take("+-"):
            value += self.product() if sign == "+" else -self.product()
        return value

    def product(self) -> Fraction:
        value = self.factor()
        while True:
            if sign := self.take("×*·÷/:"):
                value = value / self.factor() if sign in "÷/:" else value * self.factor()
            elif self.peek() in _OPENS or self.peek() in self.values:
                value *= self.factor()  # 2a, 3(b+c), 2√3
            else:
                return value

    def factor(self) -> Fraction:
        """Signs and roots bind less than powers: -2^4 is -16."""
        if sign := self.take("+-"):
            return -self.factor() if sign == "-" else self.factor()
        if self.take("√"):
            return root(self.factor())
        value = self.atom()
        if self.take(FACTORIAL):
            if value.denominator != 1 or value > _LARGEST_FACTORIAL:
                raise ValueError("factorial")
            value = Fraction(math.factorial(int(value)))
        return power(value, self.factor()) if self.take("^") else value

    def atom(self) -> Fraction:
        if self.take("(["):
            value = self.sum()
            if not self.take(")]"):
                raise ValueError("bracket")
            return value
        token = self.peek()
        self.at += 1
        if token in self.values:
            return self.values[token]
        return Fraction(token.rstrip("%")) / (100 if token.endswith("%") else 1)


def prefix(source: str, values: dict[str, Fraction] | None = None) -> tuple[Fraction, int]:
    """The value of the longest expression that ``source`` begins with, and its length; (0, 0) where there is none."""
    reader = _Reader(source, values or {})
    try:
        if reader.tokens.count("(") + reader.tokens.count("[") > _MAX_BRACKETS:
            raise ValueError("too deep")
        value = reader.sum()
        float(value)  # raises an OverflowError where it is too large for an answer
    except (ValueError, ZeroDivisionError, OverflowError):
        return Fraction(0), 0
    return value, reader.ends[reader.at]


def evaluate(source: str, values: dict[str, Fraction] | None = None) -> Fraction | None:
    """The value of an arithmetic expression, or None where it is none.

    >>> evaluate("(3+5)×2"), evaluate("2(a+1)", {"a": Fraction(3)}), evaluate("2^10"), evaluate("十五")
    (Fraction(16, 1), Fraction(8, 1), Fraction(1024, 1), None)
    """
    value, length = prefix(source, values)
    return value if length and not source[length:].strip() else None


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZπ"
POINTS = [{c: Fraction(7 * i + k * k + 3, k + 2) for i, c in enumerate(LETTERS)} for k in (1, 2, 5)]
"""Values of the letters at three points, where expressions are compared."""


def near(a: Fraction, b: Fraction) -> bool:
    """Equal as far as roots are worked out."""
    return a == b or abs(a - b) <= abs(a) / 10 ** (ROOT_DIGITS - 10)


def same(a: str, b: str) -> bool:
    """Whether two expressions with letters agree (at three points, roots to 20 digits)."""
    pairs = ((evaluate(a, point), evaluate(b, point)) for point in POINTS)
    return all(x is not None and y is not None and near(x, y) for x, y in pairs)


def same_equation(a: str, b: str) -> bool:
    """Whether two equations have one form: the differences of their sides are proportional at every point."""
    shares: list[Fraction] = []
    for point in POINTS:
        left, right = (evaluate("({})-({})".format(*e.partition("=")[::2]), point) for e in (a, b))
        if not left or not right:
            return False
        shares.append(left / right)
    return all(near(shares[0], s) for s in shares)
