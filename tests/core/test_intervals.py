from __future__ import annotations

import pytest

from robust_eval.core.intervals import sign_test, wilson


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe, Statistics in Medicine 1998, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_published_values(k: int, n: int, low: float, high: float) -> None:
    assert wilson(k, n) == pytest.approx((low, high), abs=5e-5)


def test_half_width_at_one_half() -> None:
    low, high = wilson(500, 1000)
    assert (high - low) / 2 == pytest.approx(0.0309, abs=1e-4)


def test_extremes() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(10, 10)[1] == 1.0


def test_sign_test_against_binomial_tables() -> None:
    assert sign_test(0, 0) == 1.0
    assert sign_test(3, 0) == 0.125
    assert sign_test(8, 2) == pytest.approx(56 / 1024)
    assert sign_test(2, 8) > 0.9
