from __future__ import annotations

import json
from pathlib import Path

import pytest
from known_models import linear_problem

from robust_eval import evaluate
from robust_eval.errors import UserError
from robust_eval.schema import EvalResult, read_result


@pytest.fixture(scope="module")
def result() -> EvalResult:
    model, x, y = linear_problem(n=20)
    return evaluate(model, x, y, "Linf 0.02", suite="fgsm", name="linear")


def test_keys_and_column_ids(result: EvalResult) -> None:
    value = json.loads(result.to_json())
    assert value["schema_version"] == 1
    assert {
        "status",
        "checkpoint",
        "data",
        "threat",
        "suite",
        "columns",
        "worst_case",
        "flags",
        "environment",
    } <= set(value)
    column = value["columns"]["fgsm"]
    assert {"accuracy", "n", "n_robust", "ci95", "robust_bits"} <= set(column)
    assert column["accuracy"] == column["n_robust"] / column["n"] == column["robust_bits"].count("1") / 20
    assert {"accuracy", "n", "n_robust", "ci95", "robust_bits"} <= set(value["worst_case"])
    assert value["threat"] == {"norm": "Linf", "eps": "0.02", "eps_value": 0.02}


def test_a_result_reads_back_equal(result: EvalResult, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(result.to_json())
    assert read_result(path) == result


def test_no_path_and_no_name_of_a_person_in_a_result(result: EvalResult) -> None:
    text = result.to_json()
    assert str(Path.cwd()) not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(schema_version=99), "schema version 99, newer than 1.*Upgrade robust-eval"),
        (lambda v: v.pop("schema_version"), "has no schema_version"),
        (lambda v: v.pop("columns"), "is not a valid result: columns: Field required"),
        (lambda v: v.update(extra=1), "is not a valid result: extra: Extra inputs"),
        (lambda v: v["worst_case"].update(accuracy="NaN"), "is not a valid result: worst_case.accuracy"),
    ],
)
def test_what_is_not_a_result(result: EvalResult, tmp_path: Path, change: object, message: str) -> None:
    value = json.loads(result.to_json())
    change(value)  # type: ignore[operator]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=message):
        read_result(path)


def test_truncated_missing_and_foreign_files(result: EvalResult, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(UserError, match="does not exist"):
        read_result(path)
    path.write_text(result.to_json()[:100])
    with pytest.raises(UserError, match="Is it truncated"):
        read_result(path)
    path.write_text("[1, 2]")
    with pytest.raises(UserError, match="not a robust-eval result"):
        read_result(path)
