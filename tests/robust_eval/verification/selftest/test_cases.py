"""The self-test's cases: each planted defect raises its flags, unmodified models raise none."""

from __future__ import annotations

import pytest
from _pytest.mark.structures import ParameterSet

from robust_eval.results import flags
from robust_eval.verification import selftest
from robust_eval.verification.selftest.case import EXACT, STOPPED, Case, CaseOutcome, make_case

CASES = selftest.cases()
LONG = {
    "trained network, four attacks, diagnosis",
    "linear, 4 classes, Linf 0.01",
    "linear, 4 classes, L2 0.05",
    "linear, 4 classes, L2 0.15",
    "foreign file with GELU",
    "bit depth reduced to 16 levels",
    "seeds numpy",
    "seeds Python's random",
    "gradient of 5% of the pixels",
    "gradient with wrong signs for a third",
    "gradient rolled",
    "detail lost in bfloat16",
    "anti-adversary",
    "LeakyReLU of an unusual slope",
    "gradient set to zero",
}
"""Slow cases; quicker ones, or the tests of a check, have the same defect with other figures."""
PLANTS = ("defense", "deception")


def parameters() -> list[ParameterSet]:
    """All cases. Of the planted models, the first with a set of flags is quick, the others are slow."""
    seen, found = set(), []
    for planted in CASES:
        repeated = planted.group in PLANTS and planted.expected in seen
        marks = [pytest.mark.slow] if repeated or planted.name in LONG else []
        found.append(pytest.param(planted, marks=marks, id=f"{planted.group}-{planted.name}"))
        if planted.group in PLANTS and not marks:
            seen.add(planted.expected)
    return found


@pytest.mark.parametrize("planted", parameters())
def test_each_case_raises_the_expected_flags(planted: Case) -> None:
    outcome = selftest.run_case(planted)
    assert not outcome.missed
    assert not outcome.false_alarms


def test_every_flag_is_expected_by_a_case() -> None:
    planted = {name for planted in CASES for name in planted.expected}
    assert planted - {EXACT, STOPPED} == set(flags.RULES)


def test_names_are_unique() -> None:
    names = [(planted.group, planted.name) for planted in CASES]
    assert len(set(names)) == len(names)


def test_unmodified_models_are_among_the_cases() -> None:
    unmodified = {planted.name for planted in CASES if planted.group == "unmodified"}
    assert {"untrained network", "untrained network with BatchNorm"} < unmodified
    assert {"trained network, four attacks, diagnosis", "trained network in L2, diagnosis"} < unmodified


def test_the_long_cases_exist() -> None:
    assert {planted.name for planted in CASES} > LONG


def test_an_outcome_fails_if_a_flag_is_missed_or_unexpected() -> None:
    planted = make_case("model", "x", ("collapsed",), set, "no-gradients")
    assert CaseOutcome(planted, frozenset({"collapsed"}), 0).passed
    assert CaseOutcome(planted, frozenset({"collapsed", "no-gradients"}), 0).passed
    assert CaseOutcome(planted, frozenset(), 0).missed == {"collapsed"}
    assert CaseOutcome(planted, frozenset({"collapsed", "train-mode"}), 0).false_alarms == {"train-mode"}
