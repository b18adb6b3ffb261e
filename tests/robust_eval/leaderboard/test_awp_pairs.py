"""Pairs of rows with and without adversarial weight perturbation."""

from __future__ import annotations

import pytest
from support import board_rows
from support.synthetic_results import full

from robust_eval.leaderboard.awp_pairs import find_pairs, split_awp
from robust_eval.leaderboard.page import markdown
from robust_eval.leaderboard.page.row_details import compare_pair
from robust_eval.leaderboard.page.view_models import group_views
from robust_eval.leaderboard.row import Row
from robust_eval.results import EvalResult


@pytest.fixture(scope="module")
def base() -> EvalResult:
    return board_rows.template()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("at-awp", ("at", True)),
        ("at", ("at", False)),
        ("trades-awp.pt", ("trades", True)),
        ("wrn-28-10.v2", ("wrn-28-10.v2", False)),
        ("-awp", ("-awp", False)),
        ("awp", ("awp", False)),
    ],
)
def test_split_awp(name: str, expected: tuple[str, bool]) -> None:
    assert split_awp(name) == expected


def found(*results: EvalResult) -> list[tuple[str, str]]:
    rows = [Row(f"{number}.json", result) for number, result in enumerate(results)]
    return [(before.name, after.name) for before, after in find_pairs(rows)]


def test_a_pair_has_the_same_recipe_and_images(base: EvalResult) -> None:
    at = board_rows.result(base, "at")
    other_data = base.data.model_copy(update={"fingerprint": "0" * 64, "n": 400, "name": "digits"})
    assert found(at, board_rows.result(base, "at-awp")) == [("at", "at-awp")]
    assert found(at, board_rows.result(base, "trades-awp")) == []
    assert found(at, board_rows.result(base, "at-awp", eps="0.2")) == []
    assert found(at, board_rows.result(base, "at-awp", n=300)) == []
    assert found(at, board_rows.result(base, "at-awp", data=other_data)) == []
    assert found(at, board_rows.result(base, "at-awp", seed=1)) == []
    assert found(at, board_rows.result(base, "at-awp", file="last.pt")) == []
    unfinished = board_rows.result(base, "at-awp", status="partial", missing=("aa",))
    assert found(at, unfinished) == []
    weaker = board_rows.result(base, "at-awp").model_dump(mode="json")
    weaker["columns"]["pgd-20"]["attacks"][0]["params"]["steps"] = 1
    assert found(at, EvalResult.model_validate(weaker)) == []


def test_a_row_is_in_one_pair_at_most(base: EvalResult) -> None:
    names = ("at", "at", "at-awp")
    assert found(*(board_rows.result(base, name) for name in names)) == [("at", "at-awp")]


def test_rows_are_paired_with_the_same_seed(base: EvalResult) -> None:
    results = [board_rows.result(base, name, seed=seed) for name in ("at", "at-awp") for seed in (0, 1)]
    rows = [Row(f"{number}.json", result) for number, result in enumerate(results)]
    assert [(a.file, b.file) for a, b in find_pairs(rows)] == [("0.json", "2.json"), ("1.json", "3.json")]


def test_the_difference_of_a_pair_is_computed_per_image(base: EvalResult) -> None:
    (group,) = group_views(board_rows.rows(base), {})
    shown = compare_pair(*next(members for members in group.pairs if members[0].name == "at"))
    assert [column.title for column in shown.columns] == [
        "Clean",
        "FGSM",
        "PGD-20",
        "CW-inf",
        "AutoAttack",
        "Worst case",
    ]
    before, after = shown.before.result.worst_case, shown.after.result.worst_case
    gained = sum(a == "0" and b == "1" for a, b in zip(before.robust_bits, after.robust_bits, strict=True))
    assert shown.worst.only_a == gained
    assert shown.worst.value == pytest.approx(after.accuracy - before.accuracy)
    low, high = shown.span
    assert low < 0
    assert all(low < end < high for column in shown.columns for end in column.difference.interval)


def test_the_label_contains_the_seed_and_the_name_does_not() -> None:
    def row(seed: object) -> Row:
        trained = {"recipe": {"name": "at-awp"}, "provenance": {"seed": seed}}
        return Row("r.json", full(200, trained_with=trained))

    assert [row(seed).label for seed in (0, None, 2)] == ["at-awp", "at-awp", "at-awp (seed 2)"]
    assert "| at-awp (seed 2) |" in markdown.render("b", [row(2)])
    assert split_awp(row(2).name) == ("at", True)
