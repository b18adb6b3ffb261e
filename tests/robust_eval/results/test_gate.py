from __future__ import annotations

import pytest
from support.synthetic_results import bits, full, result

from robust_eval.core.errors import UserError
from robust_eval.results import gate


def test_above_and_below_the_minimum() -> None:
    row = full(200)
    assert gate.failures(row, "aa", 50) == []
    assert gate.failures(row, "worst-case", 50) == []
    assert gate.failures(row, "fgsm", 52) == []
    assert gate.failures(row, "aa", 50.25) == [
        "Robust accuracy under aa is 50.00% (200/400), below the minimum of 50.25%."
    ]


def test_a_minimum_that_is_exactly_reached_passes() -> None:
    for percent in range(101):
        row = result({"clean": bits(100, 100), "fgsm": bits(100, percent)}, suite="quick")
        assert not [why for why in gate.failures(row, "fgsm", percent) if "minimum" in why]
        assert [why for why in gate.failures(row, "fgsm", percent + 0.01) if "minimum" in why]


def test_partial_and_blocked_results_fail() -> None:
    row = result({"clean": bits(100, 90), "fgsm": bits(100, 80)}, suite="quick", status="partial")
    assert gate.failures(row, "fgsm", 0) == ["The result is partial: pgd-20 not finished."]
    (reason,) = gate.failures(full(200, extra_flags=["train-mode"]), "aa", 0)
    assert reason.startswith("Flag train-mode blocks ranking: as planted. Parts of the model")


def test_a_blocking_flag_removed_from_the_record_still_fails() -> None:
    row = result({"clean": bits(100, 12), "fgsm": bits(100, 10), "pgd-20": bits(100, 10)}, suite="quick")
    row = row.model_copy(update={"flags": ()})
    (reason,) = gate.failures(row, "fgsm", 0)
    assert reason.startswith(
        "Flag collapsed blocks ranking: clean accuracy 12.0%, 95% interval 7.0% to 19.8%, chance"
    )


def test_invalid_columns_and_minimums() -> None:
    with pytest.raises(UserError, match="Unknown column 'pdg-20'. Did you mean pgd-20?"):
        gate.failures(full(200), "pdg-20", 50)
    partial = result({"clean": bits(100, 90)}, suite="quick", status="partial")
    with pytest.raises(UserError, match="Column pgd-20 of this result is not finished"):
        gate.failures(partial, "pgd-20", 50)
    with pytest.raises(UserError, match="in percent, got 0.5. Did you mean 50?"):
        gate.parse_minimum(0.5)
    for percent in (-1, 101):
        with pytest.raises(UserError, match="in percent, 0 to 100"):
            gate.parse_minimum(percent)
    assert gate.parse_minimum(0) == 0
