"""Arithmetic read exactly: 15-6, (3+5)×2, 2(a+b), 2^10, 5!; roots to 30 decimals where they are not rational."""

from __future__ import annotations

import math
import re
from fractions import Fraction

MAX_LENGTH = 160
FACTORIAL = "ꜝ"
"""The sign of a factorial, which :mod:`~glmjobs.marking.normalise` tells from an exclamation mark."""
ROOT_DIGITS = 30
_TOKEN = re.compile(rf"\s*(?:(\d+(?:\.\d+)?)(%?)|([a-zA-Zπ])|([-+×*·÷/()\[\]:^√{FACTORIAL}]))")
_LARGEST = 2000
"""Binary digits of the largest power that is worked out."""
_LARGEST_FACTORIAL = 200


def power(base: Fraction, exponent: Fraction) -> Fraction:
    """A whole power.

    Raises:
        ValueError: it is no whole one, or too large.
    """
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or size * abs(exponent) > _LARGEST or (base == 0 and exponent <= 0):
        raise ValueError("power")
    return base ** int(exponent)


def factorial(value: Fraction) -> Fraction:
    """n!

    Raises:
        ValueError: of no whole number, or too large.
    """
    if value.denominator != 1 or not 0 <= value <= _LARGEST_FACTORIAL:
        raise ValueError("factorial")
    return Fraction(math.factorial(int(value)))


def root(value: Fraction) -> tuple[Fraction, bool]:
    """The square root, and whether it is exact.

    Raises:
        ValueError: of a negative number.
    """
    if value < 0:
        raise ValueError("root of a negative number")
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top == value.numerator and bottom * bottom == value.denominator:
        return Fraction(top, bottom), True
    scale = 10**ROOT_DIGITS
    return Fraction(
        math.isqrt(value.numerator * value.denominator * scale**2), value.denominator * scale
    ), False


class _Reader:
    """Recursive descent over one expression; ``values`` gives letters their values."""

    def __init__(self, source: str, values: dict[str, Fraction]):
        self.tokens: list[str] = []
        self.values = values
        at = 0
        while at < len(source):
            match = _TOKEN.match(source, at)
            if not match:
                raise ValueError(source[at:])
            self.tokens.append(match[0].strip())
            at = match.end()
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def sum(self, depth: int = 0) -> Fraction:
        if depth > 20:
            raise ValueError("too deep")
        value = self.product(depth)
        while self.peek() in ("+", "-"):
            value = value + self.product(depth) if self.take() == "+" else value - self.product(depth)
        return value

    def product(self, depth: int) -> Fraction:
        value = self.factor(depth)
        while True:
            token = self.peek()
            if token in ("×", "*", "·"):
                self.take()
                value *= self.factor(depth)
            elif token in ("÷", "/", ":"):
                self.take()
                value /= self.factor(depth)
            elif token and (token in ("(", "[", "√") or token[0].isalpha()):
                value *= self.factor(depth)  # 2a, 3(b+c), 2√3
            else:
                return value

    def factor(self, depth: int) -> Fraction:
        """Signs and roots bind less than powers: -2^4 is -16."""
        token = self.peek()
        if token in ("+", "-"):
            self.take()
            value = self.factor(depth + 1) if depth < 20 else Fraction(0)
            return -value if token == "-" else value
        if token == "√":
            self.take()
            return root(self.factor(depth + 1) if depth < 20 else Fraction(0))[0]
        value = self.atom(depth)
        if self.peek() == FACTORIAL:
            self.take()
            value = factorial(value)
        if self.peek() == "^":
            self.take()
            value = power(value, self.factor(depth))
        return value

    def atom(self, depth: int) -> Fraction:
        token = self.take()
        if token in ("(", "["):
            value = self.sum(depth + 1)
            if self.take() not in (")", "]"):
                raise ValueError("bracket")
            return value
        if token[:1].isdigit():
            return Fraction(token.rstrip("%")) / (100 if token.endswith("%") else 1)
        if token and token in self.values:
            return self.values[token]
        raise ValueError(token)


def evaluate(source: str, values: dict[str, Fraction] | None = None) -> Fraction | None:
    """The value of an arithmetic expression, or None where it is none.

    >>> evaluate("(3+5)×2"), evaluate("2(a+1)", {"a": Fraction(3)}), evaluate("2^10"), evaluate("十五")
    (Fraction(16, 1), Fraction(8, 1), Fraction(1024, 1), None)
    """
    if len(source) > MAX_LENGTH:
        return None
    try:
        reader = _Reader(source.strip(), values or {})
        value = reader.sum()
        return value if reader.at == len(reader.tokens) else None
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZπ"
POINTS = [{c: Fraction(7 * i + k * k + 3, k + 2) for i, c in enumerate(LETTERS)} for k in (1, 2, 5)]
"""Values of the letters at three points, where expressions are compared."""


def near(a: Fraction, b: Fraction) -> bool:
    """Equal as far as roots are worked out."""
    return a == b or abs(a - b) <= abs(a) / 10 ** (ROOT_DIGITS - 10)


def same(a: str, b: str) -> bool:
    """Whether two expressions with letters agree (at three points, roots to 20 digits)."""
    for point in POINTS:
        left, right = evaluate(a, point), evaluate(b, point)
        if left is None or right is None or not near(left, right):
            return False
    return True


def same_equation(a: str, b: str) -> bool:
    """Whether two equations have one form: the differences of their sides are proportional at every point."""
    shares: list[Fraction] = []
    for point in POINTS:
        sides = [evaluate(side, point) for side in (*a.split("=", 1), *b.split("=", 1))]
        if len(sides) != 4 or any(s is None for s in sides):
            return False
        left, right = sides[0] - sides[1], sides[2] - sides[3]  # type: ignore[operator]
        if not left or not right:
            return not left and not right
        shares.append(left / right)
    return all(near(shares[0], s) for s in shares)
