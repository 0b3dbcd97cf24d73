"""How sure a score is: intervals for one accuracy and for the difference of two on the same rows. No torch.

All intervals are two-sided. ``z`` is the standard normal quantile; :data:`Z95` gives 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

Z95 = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""


def wilson(correct: int, rows: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1), knowing nothing, where there are no rows.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22
        (1927),
    209-212. It keeps its coverage near 0 and 1, where the textbook interval p ± z·sqrt(p(1-p)/n) collapses.

    Raises:
        ValueError: unless 0 <= correct <= rows.
    """
    if not 0 <= correct <= rows:
        raise ValueError(f"{correct} correct of {rows} rows is impossible")
    if rows == 0:
        return 0.0, 1.0
    p = correct / rows
    centre = p + z * z / (2 * rows)
    half = z * math.sqrt(p * (1 - p) / rows + z * z / (4 * rows * rows))
    scale = 1 + z * z / rows
    # At the ends the formula is exactly 0 or 1; rounding must not put the estimate outside its interval.
    lower = 0.0 if correct == 0 else (centre - half) / scale
    upper = 1.0 if correct == rows else (centre + half) / scale
    return lower, upper


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test: do two paired classifiers differ?

    Only the rows that exactly one of the two got right count; under the null hypothesis each falls to either
    side with probability 1/2, so p = min(1, 2·P[Binomial(n, 1/2) <= min(b, c)]), here in exact integer
    arithmetic.

    Source: Q. McNemar, Psychometrika 12 (1947), 153-157, in the exact binomial form of F. Mosteller,
    "Some statistical problems in measuring the subjective response to drugs", Biometrics 8 (1952), 220-226.

    Raises:
        ValueError: on a negative count.
    """
    if min(only_first, only_second) < 0:
        raise ValueError(f"negative count: {only_first}, {only_second}")
    n, k = only_first + only_second, min(only_first, only_second)
    term = tail = 1  # C(n, 0) and the sum of C(n, i) up to i
    for i in range(1, k + 1):
        term = term * (n - i + 1) // i
        tail += term
    return min(1.0, float(Fraction(2 * tail, 1 << n)))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, corrected for their number: each may be held against 5 % as if it stood alone.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6
    (1979), 65-70: the smallest is multiplied by their number, the next by one less; none falls below the one before.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = least
    return corrected


def paired_difference(
    both: int, only_first: int, only_second: int, neither: int, z: float = Z95
) -> tuple[float, tuple[float, float]]:
    """Accuracy of the second minus that of the first, on the same rows, with its interval.

    Source: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions
        based on
    paired data", Statistics in Medicine 17 (1998), 2635-2650, method 10: the two Wilson intervals joined by
    their correlation phi, which is reduced by a continuity correction where it is positive.

    Returns:
        ``(difference, (lower, upper))``; ``(0, (-1, 1))`` where there are no rows.

    Raises:
        ValueError: on a negative count.
    """
    if min(both, only_first, only_second, neither) < 0:
        raise ValueError(f"negative count: {both}, {only_first}, {only_second}, {neither}")
    n = both + only_first + only_second + neither
    if n == 0:
        return 0.0, (-1.0, 1.0)
    first, second = both + only_first, both + only_second
    p1, p2 = first / n, second / n
    (l1, u1), (l2, u2) = wilson(first, n, z), wilson(second, n, z)
    margins = first * (n - first) * second * (n - second)
    cross = both * neither - only_first * only_second
    if cross > 0:
        cross_corrected = max(cross - n / 2, 0.0)
    else:
        cross_corrected = float(cross)
    phi = cross_corrected / math.sqrt(margins) if margins else 0.0

    def joined(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    difference = p2 - p1
    lower = difference - joined(p2 - l2, u1 - p1)
    upper = difference + joined(u2 - p2, p1 - l1)
    return difference, (max(lower, -1.0), min(upper, 1.0))


@dataclass(frozen=True)
class Comparison:
    """Two models on the same rows, as ``scores/comparison.json`` holds it. Accuracies are fractions of 1."""

    rows: int
    both: int
    only_base: int
    only_finetuned: int
    neither: int
    difference: float
    difference_interval: tuple[float, float]
    mcnemar_p: float

    def as_dict(self) -> dict[str, object]:
        """As plain JSON values."""
        return {**asdict(self), "difference_interval": list(self.difference_interval)}


def compare(pairs: Iterable[tuple[bool, bool]]) -> Comparison:
    """Compare two models from ``(base correct, fine-tuned correct)``, one pair a row."""
    counts = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for base, finetuned in pairs:
        counts[bool(base), bool(finetuned)] += 1
    both, only_base = counts[True, True], counts[True, False]
    only_finetuned, neither = counts[False, True], counts[False, False]
    difference, interval = paired_difference(both, only_base, only_finetuned, neither)
    return Comparison(
        rows=sum(counts.values()),
        both=both,
        only_base=only_base,
        only_finetuned=only_finetuned,
        neither=neither,
        difference=difference,
        difference_interval=interval,
        mcnemar_p=mcnemar_exact(only_base, only_finetuned),
    )
