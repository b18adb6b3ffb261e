"""Ranks, ties and groups of rows."""

from __future__ import annotations

from typing import Any

from support.synthetic_results import bits, full, result

from robust_eval.leaderboard.ranking import RankedRow, group_rows, rank_rows
from robust_eval.leaderboard.row import Row
from robust_eval.results import EvalResult, summary


def rows(*results: EvalResult) -> list[Row]:
    return [Row(f"results/{found.checkpoint.name}.json", found) for found in results]


def shown(found: list[RankedRow]) -> list[tuple[str, str]]:
    return [(ranked.text, ranked.row.name) for ranked in found]


def test_rows_without_significant_difference_share_a_rank() -> None:
    """On the same images 200 against 197 is not significant, 200 against 190 is (10 : 0, p = 0.002)."""
    found = rank_rows(rows(full(190, name="c"), full(200, name="a"), full(197, name="b")))
    assert shown(found) == [("1=", "a"), ("1=", "b"), ("3", "c")]


def test_rows_are_tested_against_the_leader_of_the_rank() -> None:
    """Neighbours do not differ significantly (4 : 0), the first and the third do (8 : 0)."""
    found = rank_rows(
        rows(full(200, name="a"), full(196, name="b"), full(192, name="c"), full(188, name="d"))
    )
    assert shown(found) == [("1=", "a"), ("1=", "b"), ("3=", "c"), ("3=", "d")]


def test_the_paired_test_decides_not_the_intervals() -> None:
    """20 images fewer are significant only if the same images are robust for both rows."""
    found = rank_rows(rows(full(200, name="a"), full(180, start=100, name="b")))
    assert shown(found) == [("1=", "a"), ("1=", "b")]
    clear = rank_rows(rows(full(200, name="a"), full(180, name="b")))
    assert shown(clear) == [("1", "a"), ("2", "b")]


def test_equal_rows_are_ordered_by_clean_accuracy_then_name() -> None:
    found = rank_rows(rows(full(200, name="b"), full(200, name="a"), full(200, clean=370, name="z")))
    assert shown(found) == [("1=", "z"), ("1=", "a"), ("1=", "b")]


def test_rows_without_a_rank_come_last() -> None:
    partial = result({"clean": bits(400, 399)}, suite="full", status="partial", name="partial")
    blocked = full(350, extra_flags=["train-mode"], name="blocked")
    found = rank_rows(rows(partial, blocked, full(100, name="a")))
    assert shown(found) == [("1", "a"), ("-", "partial"), ("-", "blocked")]


def test_another_column_can_rank() -> None:
    one = result({"clean": bits(400, 300), "fgsm": bits(400, 200), "pgd-20": bits(400, 100)}, name="one")
    two = result({"clean": bits(400, 300), "fgsm": bits(400, 150), "pgd-20": bits(400, 120)}, name="two")
    assert shown(rank_rows(rows(one, two))) == [("1", "two"), ("2", "one")]
    assert shown(rank_rows(rows(one, two), by="fgsm")) == [("1", "one"), ("2", "two")]
    assert shown(rank_rows(rows(one, two), by="aa")) == [("-", "one"), ("-", "two")]


def test_rows_are_grouped_by_images_and_setting() -> None:
    found = group_rows(
        rows(
            full(200, name="small", n=380, fingerprint="11" * 32),
            full(200, name="a"),
            full(200, name="eps", eps="8/255"),
            full(200, name="b"),
        )
    )
    assert [[row.name for row in group] for group in found] == [["a", "b"], ["small"], ["eps"]]


def edited(found: EvalResult, label: str, column: str | None = None, **changes: Any) -> EvalResult:
    """The result under another name, with other suite fields, or other parameters of a column's attack."""
    value = found.model_dump(mode="json")
    value["checkpoint"]["name"] = label
    if column is None:
        value["suite"].update(changes)
    else:
        value["columns"][column]["attacks"][0]["params"].update(changes)
    return EvalResult.model_validate(value)


def without(found: EvalResult, name: str, column: str) -> EvalResult:
    """The result after a column was removed from columns, suite and worst case."""
    kept = {key: record for key, record in found.columns.items() if key != column}
    suite = found.suite.model_copy(update={"columns": tuple(kept)})
    changes = {"columns": kept, "suite": suite, "worst_case": summary.worst_case(kept)}
    return edited(found.model_copy(update=changes), name)


def test_rows_that_computed_other_things_are_grouped_apart() -> None:
    """On boards without rules too, and whatever the rows call their suite."""
    quick = {"clean": bits(400, 360), "fgsm": bits(400, 200), "pgd-20": bits(400, 190)}
    found = group_rows(
        rows(
            full(200, name="a"),
            full(200, name="b"),
            without(full(200), "no aa", "aa"),
            edited(full(200), "weak", "pgd-20", steps=1),
            edited(full(200), "new", version=2),
            edited(without(full(200), "", "aa"), "new, no aa", version=2),
            edited(full(200), "lookalike", name="Full"),
            result(quick, suite="quick", name="quick"),
            result(quick, name="list"),
            edited(result(quick), "file", name="mine", version=4),
            edited(result(quick), "other", "fgsm", targeted=True),
        )
    )
    names = {frozenset(row.name for row in group) for group in found}
    assert names == {
        frozenset(group)
        for group in (
            ("a", "b"),
            ("no aa",),
            ("weak",),
            ("new",),
            ("new, no aa",),
            ("lookalike",),
            ("quick",),
            ("list", "file"),
            ("other",),
        )
    }


def test_an_unfinished_row_is_shown_with_rows_that_agree_with_it() -> None:
    columns = {"clean": bits(400, 360), "fgsm": bits(400, 200), "pgd-10": bits(400, 190)}
    complete = result(columns, name="complete")
    open_columns = {name: record for name, record in complete.columns.items() if name != "pgd-10"}
    partial = complete.model_copy(
        update={"columns": open_columns, "missing": ("pgd-10",), "status": "partial"}
    )
    agreeing, other = edited(partial, "agreeing"), edited(partial, "other", "fgsm", targeted=True)
    found = group_rows(rows(agreeing, other, complete))
    assert [[row.name for row in group] for group in found] in (
        [["complete", "agreeing"], ["other"]],
        [["other"], ["complete", "agreeing"]],
    )


def test_a_row_that_contradicts_itself_has_no_rank() -> None:
    honest, forged = full(190, name="honest"), full(200, name="forged")
    count = forged.worst_case.model_copy(update={"n_robust": forged.worst_case.n_robust + 5})
    found = rank_rows(rows(honest, forged.model_copy(update={"worst_case": count})))
    assert shown(found) == [("1", "honest"), ("-", "forged")]
    assert found[1].row.standing == "contradicts itself"


def test_a_row_whose_own_numbers_raise_a_blocking_flag_has_no_rank() -> None:
    honest, forged = full(190, name="honest"), full(40, clean=40, name="at chance")
    assert shown(rank_rows(rows(honest, forged))) == [("1", "honest"), ("-", "at chance")]
