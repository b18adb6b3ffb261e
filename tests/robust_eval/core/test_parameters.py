"""Attack parameters: parsing, and error messages that name file and parameter."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from robust_eval import attacks
from robust_eval.core.errors import UserError


@pytest.mark.parametrize("step", ["1/4", 0.25, "0.25"])
def test_fractions_are_exact_and_written_in_one_form(step: object) -> None:
    params = attacks.parse("pgd", {"step_linf": step})
    assert params.step_linf == Fraction(1, 4)
    assert attacks.spec("pgd", "pgd", {"step_linf": step}).params["step_linf"] == "0.25"


def test_defaults_are_included() -> None:
    spec = attacks.spec("pgd-20", "pgd", {"steps": 20})
    assert spec.params == {"steps": 20, "step_linf": "0.25", "step_l2": "15/128"}
    assert (spec.id, spec.family, spec.version) == ("pgd-20", "pgd", 1)


@pytest.mark.parametrize(
    ("family", "table", "message"),
    [
        ("pgd", {"stpes": 20}, "x.toml: Unknown pgd parameter 'stpes'. Did you mean steps?"),
        ("fgsm", {"steps": 20}, "x.toml: Unknown fgsm parameter 'steps'."),
        ("pgd", {"steps": "20"}, "x.toml: steps of pgd must be a whole number from 1 to 100000, got '20'."),
        ("pgd", {"steps": True}, "x.toml: steps of pgd must be a whole number from 1 to 100000, got True."),
        ("pgd", {"steps": 2.5}, "x.toml: steps of pgd must be a whole number from 1 to 100000, got 2.5."),
        ("pgd", {"steps": 0}, "x.toml: steps of pgd must be from 1 to 100000, got 0."),
        ("pgd", {"step_l2": 0}, "x.toml: step_l2 of pgd must be from 0.001 to 10, got 0."),
        ("pgd", {"step_l2": "8/0"}, "x.toml: step_l2 of pgd '8/0' divides by zero."),
        ("pgd", {"step_l2": [1]}, "must be a number from 0.001 to 10 such as 0.25 or '1/4', got [1]."),
        ("pgd", {"step_l2": "a lot"}, "x.toml: step_l2 of pgd 'a lot' is not a number."),
        ("spsa", {"samples": 1}, "x.toml: samples of spsa must be from 2 to 1000000, got 1."),
        (
            "autoattack",
            {"phase": "apgd"},
            "x.toml: phase of autoattack must be one of apgd-ce, apgd-t, fab-t, square, got 'apgd'.",
        ),
    ],
)
def test_error_messages(family: str, table: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        attacks.parse(family, table, "x.toml")
    assert message in str(caught.value)


def test_an_unknown_family() -> None:
    with pytest.raises(UserError, match=r"Unknown attack family 'autoatack'\. Did you mean autoattack\?"):
        attacks.parse("autoatack", {})


def test_private_modules_are_no_families() -> None:
    assert attacks.families() == ("autoattack", "cw-linf", "fgsm", "pgd", "spsa")
