"""Confidence intervals and paired tests for proportions."""

from __future__ import annotations

from fractions import Fraction
from math import comb, exp, lgamma, log, log1p, sqrt

Z = 1.959963984540054
"""Quantile of the normal distribution for intervals of 95%."""


def wilson(successes: int, n: int, z: float = Z) -> tuple[float, float]:
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


def exact_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """The exact confidence interval of a proportion (Clopper and Pearson, Biometrika 1934).

    For rare events: unlike Wilson's interval, each end is wrong with a probability of at most
    ``(1 - level) / 2``, however small the proportion. Returns (low, high) as fractions; (0, 1) for ``n = 0``.
    """
    if n == 0:
        return 0.0, 1.0
    tail = (1 - level) / 2
    # At most k successes are at least n - k failures.
    return _lower_end(successes, n, tail), 1 - _lower_end(n - successes, n, tail)


def _lower_end(k: int, n: int, tail: float) -> float:
    """The proportion at which ``k`` or more of ``n`` have the probability ``tail``, by bisection."""
    low, high = 0.0, k / n
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if k and _at_least(k, n, middle) < tail else (low, middle)
    return low


def _at_least(k: int, n: int, p: float) -> float:
    """P(X >= k) for X ~ Binomial(n, p), with 0 < p < k / n, in floating point."""
    term = exp(lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) + k * log(p) + (n - k) * log1p(-p))
    total, odds = 0.0, p / (1 - p)
    for j in range(k, n + 1):
        total += term
        term *= odds * (n - j) / (j + 1)
        if term < 1e-17 * total:
            break
    return total


def binomial_tail(successes: int, n: int, p: Fraction) -> float:
    """One-sided exact p-value P(X >= successes) for X ~ Binomial(n, p), 0 < p < 1, in integer arithmetic."""
    hit, miss = p.numerator, p.denominator - p.numerator
    term, tail = comb(n, successes) * hit**successes * miss ** (n - successes), 0
    for k in range(successes, n + 1):
        tail += term
        term = term * (n - k) * hit // ((k + 1) * miss)
    return float(tail / p.denominator**n)


def paired_difference(only_a: int, only_b: int, n: int, z: float = Z) -> tuple[float, float]:
    """The confidence interval of the difference of two proportions on the same ``n`` examples.

    ``only_a`` and ``only_b`` count the examples on which exactly one of the two succeeds; the difference is
    (only_a - only_b) / n. Adjusted Wald interval of Bonett and Price (Journal of Educational and Behavioral
    Statistics 2012), 95% by default.
    """
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    half_width = z * sqrt((a + b - (a - b) ** 2) / (n + 2))
    return max(-1.0, a - b - half_width), min(1.0, a - b + half_width)


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
