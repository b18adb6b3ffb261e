"""Each test edits one number of a result; the contradiction must be reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.known_models import linear_problem

from robust_eval import evaluate
from robust_eval.results import EvalResult
from robust_eval.results.consistency import contradictions

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def result() -> EvalResult:
    model, x, y = linear_problem(n=20)
    return evaluate(model, x, y, "Linf 0.02", suite="fgsm,apgd-ce-t", name="linear")


def flipped(bits: str, at: int) -> str:
    return bits[:at] + ("0" if bits[at] == "1" else "1") + bits[at + 1 :]


def test_an_unmodified_result_has_no_contradictions(result: EvalResult) -> None:
    assert contradictions(result) == []


def set_path(value: dict[str, Any], path: str, new: object) -> None:
    *parents, last = path.split("/")
    for key in parents:
        value = value[int(key) if isinstance(value, list) else key]
    value[last] = new


@pytest.mark.parametrize(
    ("path", "new", "message"),
    [
        ("columns/fgsm/accuracy", 0.97, "fgsm: accuracy 0.97 is not"),
        ("columns/fgsm/n_robust", 19, "fgsm: n_robust is 19, its verdict bits have"),
        ("columns/fgsm/n", 21, "fgsm: n is 21, the slice has 20 images"),
        ("columns/fgsm/robust_bits", "1" * 19, "fgsm: 19 verdict bits for 20 images"),
        ("columns/fgsm/robust_bits", "1" * 20, "fgsm: n_robust is"),
        ("columns/fgsm/ci95", [0.1, 0.2], "fgsm: its interval is not the 95% Wilson interval"),
        ("columns/fgsm/attacks/0/n_broken", 0, "fgsm: its attacks broke 0, its bits"),
        ("columns/fgsm/attacks/0/n_attacked", 3, "fgsm: 3 images were attacked, but"),
        ("columns/fgsm/attacks", [], "fgsm: no attack is recorded"),
        ("columns/fgsm/n_invalid", 2, "fgsm: its count of invalid images"),
        ("columns/fgsm/forwards", 1, "fgsm: its forwards are not the sum"),
        ("columns/apgd-ce-t/attacks/1/n_attacked", 20, "apgd-t did not attack the examples left by apgd-ce"),
        ("worst_case/accuracy", 0.9, "worst case: accuracy 0.9 is not"),
        ("worst_case/seconds", 1e6, "the worst case's seconds"),
        ("worst_case/backwards", 1, "the worst case's backwards"),
        ("worst_case/columns", ["clean", "fgsm"], "its worst case is not over all its columns"),
        ("threat/eps", "0.03", "eps 0.03 is not 0.02"),
        ("threat/eps", "8/0", "eps 8/0 is not 0.02"),
        ("data/n", 10, "n is 20, the slice has 10 images"),
        ("checkpoint/classes", 10, "the model has 10 classes, the data 4"),
        ("status", "partial", "its status is partial, but 0 columns"),
        ("missing", ["fgsm"], "its list of missing columns is not"),
        ("suite/columns", ["clean", "fgsm"], "its columns are not those of its suite"),
    ],
)
def test_an_edit_is_reported(result: EvalResult, path: str, new: object, message: str) -> None:
    value = json.loads(result.to_json())
    set_path(value, path, new)
    found = contradictions(EvalResult.model_validate(value))
    assert any(message in sentence for sentence in found), found


def edited_count(count: dict[str, Any], bits: str) -> None:
    from robust_eval.core.statistics import wilson

    robust = bits.count("1")
    count |= {"robust_bits": bits, "n_robust": robust, "accuracy": robust / len(bits)}
    count["ci95"] = list(wilson(robust, len(bits)))


def test_a_consistent_edit_of_bits_still_contradicts_the_rest(result: EvalResult) -> None:
    value = json.loads(result.to_json())
    worst = value["worst_case"]
    edited_count(worst, flipped(worst["robust_bits"], worst["robust_bits"].index("0")))
    assert contradictions(EvalResult.model_validate(value)) == [
        "the worst case is not the AND of its columns, example by example"
    ]


def test_robust_although_wrong_without_an_attack(result: EvalResult) -> None:
    value = json.loads(result.to_json())
    wrong = value["columns"]["clean"]["robust_bits"].index("0")
    column = value["columns"]["fgsm"]
    edited_count(column, flipped(column["robust_bits"], wrong))
    found = contradictions(EvalResult.model_validate(value))
    assert "fgsm: 1 images are robust but wrong without an attack" in found


def test_a_removed_column_is_reported(result: EvalResult) -> None:
    value = json.loads(result.to_json())
    del value["columns"]["fgsm"]
    found = contradictions(EvalResult.model_validate(value))
    assert "its status is complete, but 1 columns of its suite are missing" in found
    del value["columns"]["clean"]
    assert "there is no clean column" in contradictions(EvalResult.model_validate(value))
