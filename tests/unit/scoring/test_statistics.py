"""Intervals and tests against published or independently computed values, and by their own coverage."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest

from glmjobs.scoring.statistics import Z95, compare, mcnemar_exact, paired_difference, wilson


def test_wilson_matches_newcombe_1998_table() -> None:
    """R. G. Newcombe, Stat. Med. 17 (1998), 857-872, table I, method 3 (score, no continuity correction)."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0000, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (correct, rows), interval in published.items():
        assert wilson(correct, rows) == pytest.approx(interval, abs=5e-5)


def test_wilson_solves_the_score_equation() -> None:
    """Its ends are where (p̂ - p)² = z² p (1 - p) / n: the definition, independent of the closed form."""
    for correct, rows in [(1, 3), (7, 9), (480, 10000), (9999, 10000)]:
        for end in wilson(correct, rows):
            assert (correct / rows - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / rows, rel=1e-9)


def test_wilson_at_the_ends_and_without_rows() -> None:
    assert wilson(0, 5)[0] == 0.0
    assert wilson(5, 5)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)
    for rows, correct in ((n, k) for n in range(1, 30) for k in range(n + 1)):
        low, high = wilson(correct, rows)
        assert 0.0 <= low <= correct / rows <= high <= 1.0


@pytest.mark.parametrize("counts", [(3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        wilson(*counts)


def test_mcnemar_is_the_binomial_tail() -> None:
    for b, c in product(range(12), repeat=2):
        n = b + c
        tail = sum(math.comb(n, i) for i in range(min(b, c) + 1)) / 2**n
        assert mcnemar_exact(b, c) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(0, 6) == pytest.approx(2 / 64)
    assert (
        mcnemar_exact(4000, 5000) == mcnemar_exact(5000, 4000) < 1e-20
    )  # exact where floats would underflow
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 3)


def test_paired_difference_by_hand() -> None:
    """Newcombe's method 10 for (36, 2, 12, 0), computed step by step; phi stays uncorrected as it is
    negative."""
    difference, (low, high) = paired_difference(36, 2, 12, 0)
    (l1, u1), (l2, u2) = wilson(38, 50), wilson(48, 50)
    phi = (36 * 0 - 2 * 12) / math.sqrt(38 * 12 * 48 * 2)
    p1, p2 = 0.76, 0.96
    down = math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    up = math.sqrt((u2 - p2) ** 2 - 2 * phi * (u2 - p2) * (p1 - l1) + (p1 - l1) ** 2)
    assert difference == pytest.approx(0.2)
    assert (low, high) == pytest.approx((0.2 - down, 0.2 + up))
    assert (low, high) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_paired_difference_is_antisymmetric_and_bounded() -> None:
    rng = random.Random(0)
    for _ in range(300):
        a, b, c, d = (rng.randrange(0, 20) for _ in range(4))
        difference, (low, high) = paired_difference(a, b, c, d)
        reverse, (reverse_low, reverse_high) = paired_difference(a, c, b, d)
        assert reverse == pytest.approx(-difference)
        assert (reverse_low, reverse_high) == pytest.approx((-high, -low))
        assert -1.0 <= low <= difference <= high <= 1.0


def test_intervals_cover_the_truth() -> None:
    """95 % intervals of correlated pairs hold the true difference about 95 % of the time (seeded)."""
    rng = random.Random(1)
    rows, trials, inside = 80, 1500, 0
    weights = (0.15, 0.10, 0.25, 0.50)  # both, only the first, only the second, neither
    for _ in range(trials):
        drawn = rng.choices(range(4), weights, k=rows)
        low, high = paired_difference(*(drawn.count(i) for i in range(4)))[1]
        inside += low <= 0.15 <= high
    assert 0.93 <= inside / trials <= 0.975


def test_compare_counts_pairs() -> None:
    pairs = [(True, True)] * 3 + [(True, False)] * 2 + [(False, True)] * 7 + [(False, False)] * 8
    found = compare(pairs)
    assert (found.both, found.only_base, found.only_finetuned, found.neither) == (3, 2, 7, 8)
    assert found.rows == 20
    assert found.difference == pytest.approx(0.25)
    assert found.mcnemar_p == mcnemar_exact(2, 7)
    assert set(found.as_dict()) == {
        "rows", "both", "only_base", "only_finetuned", "neither",
        "difference", "difference_interval", "mcnemar_p",
    }  # fmt: skip
    assert compare([]).difference_interval == (-1.0, 1.0)
