"""Confidence intervals and paired tests for proportions."""

from __future__ import annotations

from fractions import Fraction
from math import comb, sqrt


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score confidence interval of a proportion (Wilson, JASA 1927, eq. 4).

    Returns (low, high) as fractions, for 95% by default; (0, 1) for ``n = 0``.
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z * z / (2 * n)
    half_width = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # With 0 or n successes the bound is exactly 0 or 1; avoid rounding errors.
    low = 0.0 if successes == 0 else (centre - half_width) / scale
    high = 1.0 if successes == n else (centre + half_width) / scale
    return low, high


def binomial_tail(successes: int, n: int, p: Fraction) -> float:
    """One-sided exact p-value P(X >= successes) for X ~ Binomial(n, p), 0 < p < 1."""
    hit, miss = p.numerator, p.denominator - p.numerator
    term, tail = comb(n, successes) * hit**successes * miss ** (n - successes), 0
    for k in range(successes, n + 1):
        tail += term
        term = term * (n - k) * hit // ((k + 1) * miss)
    return float(tail / p.denominator**n)


def sign_test(wins: int, losses: int) -> float:
    """One-sided exact p-value of the sign test (exact McNemar test).

    ``wins`` and ``losses`` count discordant pairs: examples on which exactly one of two attacks, or models,
    succeeds. The p-value is P(X >= wins) for X ~ Binomial(wins + losses, 1/2).
    """
    return binomial_tail(wins, wins + losses, Fraction(1, 2))


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that two paired proportions are equal (McNemar 1947, exact binomial form).

    ``only_a`` and ``only_b`` count the examples on which exactly one of the two is correct. Without such
    examples p is 1.
    """
    return min(1.0, 2 * sign_test(max(only_a, only_b), min(only_a, only_b)))
