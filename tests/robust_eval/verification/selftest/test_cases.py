"""The self-test's cases: each planted defect raises its flags, unmodified models raise none."""

from __future__ import annotations

import pytest

from robust_eval.results import flags
from robust_eval.verification import selftest
from robust_eval.verification.selftest.case import EXACT, STOPPED, Case, CaseOutcome, make_case

CASES = selftest.cases()


@pytest.mark.parametrize("planted", CASES, ids=lambda planted: f"{planted.group}-{planted.name}")
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
    assert any("trained network, four attacks, diagnosis" in name for name in unmodified)


def test_an_outcome_fails_if_a_flag_is_missed_or_unexpected() -> None:
    planted = make_case("model", "x", ("collapsed",), set, "no-gradients")
    assert CaseOutcome(planted, frozenset({"collapsed"}), 0).passed
    assert CaseOutcome(planted, frozenset({"collapsed", "no-gradients"}), 0).passed
    assert CaseOutcome(planted, frozenset(), 0).missed == {"collapsed"}
    assert CaseOutcome(planted, frozenset({"collapsed", "train-mode"}), 0).false_alarms == {"train-mode"}
