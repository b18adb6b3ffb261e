"""Intervals and tests for counts."""

from __future__ import annotations

from math import comb, sqrt


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The Wilson score interval of a proportion, as fractions (Wilson, JASA 1927, eq. 4).

    95% by default. ``n = 0`` knows nothing and gives (0, 1).
    """
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At 0 and n successes the bound is exact; rounding must not move it off.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return low, high


def sign_test(wins: int, losses: int) -> float:
    """One-sided exact p-value that ``wins`` exceed ``losses`` by chance (McNemar's test, exact form).

    Both count discordant pairs: examples on which only one of two attacks, or models, succeeded.
    """
    n = wins + losses
    term, tail = comb(n, wins), 0
    for k in range(wins, n + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return float(tail / 2**n)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value that two paired proportions are equal (McNemar 1947, exact binomial form).

    ``only_a`` and ``only_b`` count the examples on which just one of the two is right. Without any such
    example there is nothing to tell them apart, and p is 1.
    """
    return min(1.0, 2 * sign_test(max(only_a, only_b), min(only_a, only_b)))
