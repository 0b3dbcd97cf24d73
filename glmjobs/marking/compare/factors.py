"""Factored forms: equal is not enough where the factors themselves are asked (90=2×3×3×5, 2(x+3)(x-3))."""

from __future__ import annotations

import math
import re

_PRODUCT = re.compile(r"\d{1,9}(?:\^\d{1,2})?(?:\s?[×*·]\s?\d{1,9}(?:\^\d{1,2})?)+")
_FACTOR = re.compile(r"(\d+)(?:\^(\d+))?")
_GROUP = re.compile(r"(?:\([^()]*[a-zA-Z][^()]*\)|[a-zA-Z])(?:\^(\d))?")


def prime_factors(text: str) -> list[int]:
    """The factors of the last product in a text, powers written out, in order of size; [] where there is none."""
    found = _PRODUCT.findall(text)
    factors = [int(m[1]) for m in _FACTOR.finditer(found[-1]) for _ in range(int(m[2] or 1))] if found else []
    return sorted(factors)


def are_prime(factors: list[int]) -> bool:
    """Whether every factor is a prime number."""
    return all(n > 1 and all(n % k for k in range(2, math.isqrt(n) + 1)) for n in factors)


def count_with_letters(expression: str) -> int:
    """How many factors with letters a product has: 2(x+3)(x-3) two, a(b+1)^2 three."""
    return sum(int(m[1] or 1) for m in _GROUP.finditer(expression))
