"""A result is of the suite that it names only if all its columns are those of that suite."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.known_models import linear_problem
from support.synthetic_results import bits, full, result

from robust_eval.core.errors import UserError
from robust_eval.core.types import Suite
from robust_eval.evaluation.in_memory import evaluate
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.recorded_suite import identify
from robust_eval.results import EvalResult


def edited(change: Callable[[dict[str, Any]], object]) -> EvalResult:
    """A result of the full suite after an edit of its JSON value."""
    value = full(200).model_dump(mode="json")
    change(value)
    return EvalResult.model_validate(value)


def attack(value: dict[str, Any], column: str = "pgd-20", number: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = value["columns"][column]["attacks"][number]
    return found


def drop(value: dict[str, Any], name: str) -> None:
    del value["columns"][name]
    value["suite"]["columns"].remove(name)


def reorder(value: dict[str, Any]) -> None:
    names = list(reversed(value["suite"]["columns"]))
    value["suite"]["columns"] = names
    value["columns"] = {name: value["columns"][name] for name in names}


def test_named_and_custom_suites() -> None:
    assert identify(full(200)).label == "full v1"
    quick = {"clean": bits(400, 360), "fgsm": bits(400, 200), "pgd-20": bits(400, 190)}
    assert identify(result(quick, suite="quick")).label == "quick v1"
    listed = identify(result(quick))
    assert (listed.label, listed.claim, listed.problem) == ("custom", "", "")
    partial = result({"clean": bits(400, 360), "fgsm": bits(400, 200)}, suite="full", status="partial")
    assert identify(partial).label == "full v1"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda v: drop(v, "aa"), "lacks column aa"),
        (lambda v: drop(v, "clean"), "lacks column clean"),
        (lambda v: v["columns"].pop("aa"), "lacks column aa"),
        (lambda v: v["suite"]["columns"].remove("aa"), "does not list its columns in the order of full"),
        (lambda v: v["suite"]["columns"].append("pgd-10"), "has column pgd-10, which is not in full"),
        (lambda v: v["columns"].update(x=v["columns"]["aa"]), "has column x, which is not in full"),
        (reorder, "does not list its columns in the order of full"),
        (
            lambda v: v["columns"]["fgsm"].update(title="AutoAttack"),
            "has the title AutoAttack for column fgsm, not FGSM",
        ),
        (lambda v: attack(v).update(id="pgd-100"), "has in column pgd-20 the attacks pgd-100"),
        (lambda v: v["columns"]["aa"]["attacks"].pop(), "the attacks apgd-ce, apgd-t, fab-t"),
        (lambda v: v["columns"]["aa"]["attacks"].reverse(), "the attacks square, fab-t, apgd-t, apgd-ce"),
        (lambda v: v["columns"]["aa"].update(attacks=[]), "has in column aa the attacks none"),
        (lambda v: attack(v).update(family="fgsm"), "has the family fgsm instead of pgd in attack pgd-20"),
        (
            lambda v: attack(v)["params"].update(steps=1),
            "has steps 1 instead of 20 in attack pgd-20 of column pgd-20",
        ),
        (lambda v: attack(v)["params"].update(steps=20.0), "has steps 20.0 instead of 20"),
        (lambda v: attack(v)["params"].pop("steps"), "has steps null instead of 20"),
        (lambda v: attack(v)["params"].update(restarts=1), "has restarts 1 instead of null"),
        (
            lambda v: attack(v, "aa", 3)["params"].update(version="plus"),
            'has version "plus" instead of "standard"',
        ),
        (
            lambda v: attack(v).update(library="mine 1.0"),
            "has the library mine 1.0 instead of adversarial-rob",
        ),
    ],
)
def test_any_difference_makes_a_named_suite_custom(
    change: Callable[[dict[str, Any]], object], difference: str
) -> None:
    found = identify(edited(change))
    assert found.label == "custom (claims full v1)"
    assert difference in found.differences[0]
    assert found.problem.startswith("names suite full v1, but ")


def test_a_partial_result_cannot_leave_out_a_column_of_its_suite() -> None:
    value = result({"clean": bits(400, 360), "fgsm": bits(400, 200)}, suite="full", status="partial")
    cut = value.suite.model_copy(update={"columns": ("clean", "fgsm", "pgd-20")})
    assert identify(value.model_copy(update={"suite": cut})).label == "custom (claims full v1)"


@pytest.mark.parametrize(
    ("change", "label"),
    [
        (lambda v: v["suite"].update(version=7), "full v7 (unknown suite version)"),
        (lambda v: attack(v).update(version=9), "full v1 (unknown version of pgd-20)"),
        (lambda v: attack(v).update(version=9, params={}), "full v1 (unknown version of pgd-20)"),
        (
            lambda v: [one.update(version=2) for one in v["columns"]["aa"]["attacks"]],
            "full v1 (unknown version of apgd-ce, apgd-t, fab-t, square)",
        ),
    ],
)
def test_unknown_versions_are_no_false_claim(change: Callable[[dict[str, Any]], object], label: str) -> None:
    """Rows of other releases stay verifiable, but are told apart."""
    found = identify(edited(change))
    assert found.label == label
    assert found.problem == ""


def test_a_library_may_have_another_version() -> None:
    assert identify(
        edited(lambda v: attack(v).update(library="adversarial-robustness-toolbox 9.9"))
    ).label == ("full v1")


@pytest.mark.parametrize("name", ["Full", "full v1", "fuII", "full "])
def test_a_name_that_resembles_a_suite_is_custom(name: str) -> None:
    assert identify(edited(lambda v: v["suite"].update(name=name))).label == "custom"


def test_what_was_computed() -> None:
    same = identify(full(200)).computed
    assert identify(full(150, name="other")).computed == same
    assert identify(edited(lambda v: v["suite"].update(name="mine", version=3))).computed == same
    assert identify(edited(reorder)).computed == same
    for change in (
        lambda v: attack(v)["params"].update(steps=1),
        lambda v: attack(v).update(version=2),
        lambda v: v["columns"]["aa"].update(title="PGD-20"),
        lambda v: drop(v, "aa"),
        lambda v: v["columns"].pop("aa"),
    ):
        assert identify(edited(change)).computed != same


def test_a_suite_of_ones_own_cannot_have_the_name_of_another(tmp_path: Path) -> None:
    """Its results would claim to be of that suite."""
    (tmp_path / "full.toml").write_text('version = 1\ncolumns = ["clean", "fgsm"]\n')
    with pytest.raises(UserError, match="another suite full in this release. Give your suite, or its file"):
        suites.load(str(tmp_path / "full.toml"))
    model, x, y = linear_problem(n=4)
    with pytest.raises(UserError, match="another suite quick"):
        evaluate(model, x, y, "Linf 0.02", Suite("quick", 1, suites.load("fgsm").columns))
    (tmp_path / "quick.toml").write_text('version = 1\ncolumns = ["clean", "fgsm", "pgd-20"]\n')
    assert suites.load(str(tmp_path / "quick.toml")) == suites.load("quick")
