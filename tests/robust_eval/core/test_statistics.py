from __future__ import annotations

from fractions import Fraction

import pytest
from scipy.stats import binom

from robust_eval.core.statistics import (
    binomial_tail,
    exact_interval,
    mcnemar,
    paired_difference,
    sign_test,
    wilson,
)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_match_published_values(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_half_width_at_one_half() -> None:
    low, high = wilson(500, 1000)
    assert (high - low) / 2 == pytest.approx(0.0309, abs=1e-4)


def test_wilson_extremes() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(10, 10)[1] == 1.0


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # scipy.stats.binomtest(k, n).proportion_ci()
    [
        (0, 49, 0.0, 0.072519),
        (3, 100, 0.006230, 0.085176),
        (30, 10000, 0.002025, 0.004280),
        (9990, 10000, 0.998162, 0.999520),
        (7, 7, 0.590384, 1.0),
    ],
)
def test_exact_intervals_match_scipy(k: int, n: int, low: float, high: float) -> None:
    assert exact_interval(k, n) == pytest.approx((low, high), abs=1e-6)


def test_the_exact_interval_without_examples() -> None:
    assert exact_interval(0, 0) == (0.0, 1.0)


def test_the_interval_of_a_paired_difference() -> None:
    """By hand: (11 - 1) / 102, plus and minus 1.96 sqrt((12/102 - (10/102)^2) / 102)."""
    low, high = paired_difference(10, 0, 100)
    assert (low, high) == pytest.approx((0.0342524, 0.1618260), abs=1e-6)
    assert paired_difference(0, 10, 100) == pytest.approx((-high, -low))
    assert paired_difference(3, 3, 100)[0] < 0 < paired_difference(3, 3, 100)[1]
    assert paired_difference(0, 0, 0) == (-1.0, 1.0)


def test_sign_test_against_binomial_tables() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 0) == 0.125
    assert sign_test(8, 2) == pytest.approx(56 / 1024)
    assert sign_test(2, 8) > 0.9


def test_mcnemar_against_worked_values() -> None:
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 5) == 1.0
    # Twice the binomial tail: 2 * 56 / 1024, and 2 / 2^6.
    assert mcnemar(8, 2) == mcnemar(2, 8) == pytest.approx(0.109375)
    assert mcnemar(0, 6) == pytest.approx(0.03125)


def test_large_counts_are_exact() -> None:
    # scipy.stats.binomtest(5100, 10000).pvalue
    assert mcnemar(5100, 4900) == pytest.approx(0.0466, abs=1e-4)
    assert mcnemar(10000, 0) == 0.0


def test_binomial_tail_against_scipy() -> None:
    for successes, n in ((0, 0), (0, 5), (8, 9), (9, 11), (5, 5), (400, 900)):
        expected = binom.sf(successes - 1, n, 1 / 3)
        assert binomial_tail(successes, n, Fraction(1, 3)) == pytest.approx(expected)
