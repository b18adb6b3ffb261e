from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.known_models import linear_problem

import robust_eval
from robust_eval import evaluate, results
from robust_eval.core.errors import UserError
from robust_eval.results import EvalResult, content_digest, json_schema, read_result, reading

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
PUBLISHED = Path(robust_eval.__file__).parent / "results" / "schemas"


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


def test_no_path_and_no_user_name_in_a_result(result: EvalResult) -> None:
    text = result.to_json()
    assert str(Path.cwd()) not in text
    assert str(Path.home()) not in text


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("result-*.json")), ids=lambda path: path.name)
def test_every_version_ever_written_still_loads(path: Path) -> None:
    version = int(path.stem.removeprefix("result-"))
    found = read_result(path)
    assert json.loads(path.read_text())["schema_version"] == version
    assert found.schema_version == results.SCHEMA_VERSION
    assert found.columns["fgsm"].n_robust == 17
    assert found.worst_case.n_robust == 17
    assert found.checkpoint.name == "linear"
    if version == results.SCHEMA_VERSION:
        written, old = json.loads(found.to_json()), json.loads(path.read_text())
        assert without_added(written, old) == old


def without_added(written: Any, old: Any) -> Any:
    """What was written, without fields that were added later, which must be empty."""
    if not isinstance(written, dict) or not isinstance(old, dict):
        return written
    return {name: without_added(v, old.get(name)) for name, v in written.items() if name in old or v}


def test_there_is_a_golden_file_and_a_published_schema_for_every_version() -> None:
    versions = range(1, results.SCHEMA_VERSION + 1)
    assert [f"result-{v}.json" for v in versions] == sorted(p.name for p in GOLDEN.glob("result-*.json"))
    assert all((PUBLISHED / f"result-{v}.json").is_file() for v in versions)


def test_the_published_schema_is_current() -> None:
    path = PUBLISHED / f"result-{results.SCHEMA_VERSION}.json"
    assert path.read_text() == json_schema(), (
        f"write schema.json_schema() to {path.name}, and raise SCHEMA_VERSION if a release has been made"
    )


def test_older_versions_are_converted_one_version_at_a_time(
    result: EvalResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two invented older versions: -1 and 0 use other names for the key ``columns``."""

    def renamed(value: dict[str, Any]) -> dict[str, Any]:
        return {("attacks" if key == "columns_of_old" else key): entry for key, entry in value.items()}

    def to_columns(value: dict[str, Any]) -> dict[str, Any]:
        return {("columns" if key == "attacks" else key): entry for key, entry in value.items()}

    value = json.loads(result.to_json())
    value["columns_of_old"] = value.pop("columns")
    value["schema_version"] = -1
    path = tmp_path / "old.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match="schema version -1, which was never published"):
        read_result(path)
    monkeypatch.setattr(reading, "MIGRATIONS", {-1: renamed, 0: to_columns})
    assert read_result(path) == result
    assert json.loads(path.read_text()) == value, "reading does not change the file"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.update(schema_version=99), "schema version 99, newer than 1.*Upgrade robust-eval"),
        (lambda v: v.update(schema_version=True), "has no schema_version"),
        (lambda v: v.pop("schema_version"), "has no schema_version"),
        (lambda v: v.pop("columns"), "is not a valid result: columns: Field required"),
        (lambda v: v["suite"].update(batch_size=-1), "is not a valid result: suite.batch_size"),
        (lambda v: v["suite"].update(split=0), "is not a valid result: suite.split"),
        (lambda v: v.update(extra=1), "is not a valid result: extra: Extra inputs"),
        (lambda v: v.update({"\x1b[2J\u202eevil": 1}), r"is not a valid result: \[2Jevil: Extra inputs"),
        (lambda v: v["worst_case"].update(accuracy="NaN"), "is not a valid result: worst_case.accuracy"),
        (lambda v: v["worst_case"].update(accuracy=1.2), "worst_case.accuracy: .* less than or equal to 1"),
        (lambda v: v["worst_case"].update(accuracy=float("nan")), "contains NaN"),
        (lambda v: v["worst_case"].update(seconds=float("inf")), "contains Infinity"),
        (lambda v: v["checkpoint"].update(trained_with={"lr": float("nan")}), "contains NaN"),
        (lambda v: v["worst_case"].update(robust_bits="1x0"), "worst_case.robust_bits: .* match pattern"),
        (lambda v: v["worst_case"].update(n_robust=-1), "worst_case.n_robust: .* greater than or equal to 0"),
        (lambda v: v["data"].update(n=0), "data.n: .* greater than or equal to 1"),
        (lambda v: v["checkpoint"].update(sha256="../../x"), "checkpoint.sha256: .* match pattern"),
        (
            lambda v: v.update(evidence={"file": "../../etc/passwd", "sha256": "0" * 64, "images": 1}),
            "evidence.file: .* match pattern",
        ),
    ],
)
def test_invalid_results_are_rejected(
    result: EvalResult, tmp_path: Path, change: object, message: str
) -> None:
    value = json.loads(result.to_json())
    change(value)  # type: ignore[operator]
    path = tmp_path / "result.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=message) as caught:
        read_result(path)
    assert len(str(caught.value).splitlines()) == 1
    assert not re.search(r"[\x00-\x1f\u202e]", str(caught.value))


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
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read_result(path)
    path.write_text("[" * 200_000)
    with pytest.raises(UserError, match="is nested more than 64 levels deep"):
        read_result(path)
    path.write_text('{"schema_version": 1, "schema_version": 99}')
    with pytest.raises(UserError, match="has the key 'schema_version' twice"):
        read_result(path)


def test_a_file_too_large_to_be_a_result_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(UserError, match="larger than 64 MiB"):
        read_result(path)


def test_the_digest_does_not_depend_on_the_layout_of_the_file() -> None:
    assert content_digest(json.loads('{"b": 1, "a": [1.50]}')) == content_digest(
        json.loads('{\n"a":[1.5], "b":1}')
    )
    assert content_digest({"a": 1}) != content_digest({"a": 2})
