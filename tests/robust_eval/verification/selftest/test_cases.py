"""The self-test's table, planted x flag: every lie is flagged for what it is, honest models not at all."""

from __future__ import annotations

import pytest

from robust_eval.results import flags
from robust_eval.verification import selftest
from robust_eval.verification.selftest.case import EXACT, STOPPED, Case, CaseOutcome, case

CASES = selftest.cases()


@pytest.mark.parametrize("planted", CASES, ids=lambda planted: f"{planted.group}-{planted.name}")
def test_the_table(planted: Case) -> None:
    outcome = selftest.run(planted)
    assert not outcome.missed
    assert not outcome.false_alarms


def test_every_flag_is_planted_somewhere() -> None:
    planted = {name for planted in CASES for name in planted.expected}
    assert planted - {EXACT, STOPPED} == set(flags.RULES)


def test_names_are_unique() -> None:
    names = [(planted.group, planted.name) for planted in CASES]
    assert len(set(names)) == len(names)


def test_honest_models_are_among_them() -> None:
    honest = {planted.name for planted in CASES if planted.group == "unmodified"}
    assert {"untrained network", "untrained network with BatchNorm"} < honest
    assert any("trained network, four attacks, diagnosis" in name for name in honest)


def test_an_outcome_is_bad_when_a_flag_is_missed_or_too_many() -> None:
    planted = case("model", "x", ("collapsed",), set, "no-gradients")
    assert CaseOutcome(planted, frozenset({"collapsed"}), 0).ok
    assert CaseOutcome(planted, frozenset({"collapsed", "no-gradients"}), 0).ok
    assert CaseOutcome(planted, frozenset(), 0).missed == {"collapsed"}
    assert CaseOutcome(planted, frozenset({"collapsed", "train-mode"}), 0).false_alarms == {"train-mode"}
