from __future__ import annotations

from fractions import Fraction

import pytest

from robust_eval.core.errors import UserError
from robust_eval.core.threat import format_fraction, parse_norm, parse_threat, refuse_unbounded


def test_epsilon_is_exact() -> None:
    threat = parse_threat("linf", "8/255")
    assert threat.eps == Fraction(8, 255)
    assert str(threat) == "Linf 8/255"
    assert parse_threat("Linf", "0.031") != threat


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("8/255", "8/255"),
        ("5/255", "5/255"),
        ("0.3", "0.3"),
        ("128/255", "128/255"),
        ("1e-3", "0.001"),
        ("2/7", "2/7"),
    ],
)
def test_epsilon_is_printed_as_decimal_or_pixel_levels(value: str, text: str) -> None:
    assert format_fraction(Fraction(value)) == text


@pytest.mark.parametrize("text", ["linf", "Linf", "inf", "LINF"])
def test_norm_spellings(text: str) -> None:
    assert parse_norm(text) == "Linf"
    assert parse_norm("2") == parse_norm("l2") == "L2"


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("Linf", "0", "epsilon must be above 0, got 0"),
        ("Linf", "-1/255", "epsilon must be above 0"),
        ("Linf", "1e-40", "below 1e-6"),
        ("Linf", "1e-400", "'1e-400' has too many digits or too large an exponent"),
        ("Linf", "1e-999999999", "too large an exponent"),
        ("Linf", "0." + "0" * 50 + "1", "has too many digits"),
        ("Linf", "8/0", "divides by zero"),
        ("Linf", "8", "Did you mean 8/255?"),
        ("L2", "128", "Did you mean 128/255?"),
        ("Linf", "eight", "'eight' is not a number"),
        ("Linf", "nan", "'nan' is not a number"),
        ("Linf", "1", "With Linf 1 every image may become any other, so that .*Did you mean 1/255?"),
        ("l3", "8/255", "Unknown norm 'l3'"),
    ],
)
def test_bad_threat_models(norm: str, eps: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        parse_threat(norm, eps)


def test_a_ball_that_holds_every_image() -> None:
    """In L2 that depends on the image: the box is as wide as the root of its pixels."""
    refuse_unbounded(parse_threat("L2", "7.9"), 64)
    with pytest.raises(UserError, match=r"With L2 8 every image may become any other.* 8/255\?"):
        refuse_unbounded(parse_threat("L2", "8"), 64)
    parse_threat("Linf", "0.9")
