from __future__ import annotations

from support.synthetic_results import bits, full, result

from robust_eval.leaderboard.ranking import RankedRow, group_rows, rank_rows
from robust_eval.leaderboard.row import Row
from robust_eval.results import EvalResult


def rows(*results: EvalResult) -> list[Row]:
    return [Row(f"results/{found.checkpoint.name}.json", found) for found in results]


def shown(found: list[RankedRow]) -> list[tuple[str, str]]:
    return [(place.text, place.row.name) for place in found]


def test_rows_that_a_paired_test_cannot_tell_apart_share_a_rank() -> None:
    """On the same images: 200 against 197 says nothing, against 190 it does (10 : 0, p = 0.002)."""
    found = rank_rows(rows(full(190, name="c"), full(200, name="a"), full(197, name="b")))
    assert shown(found) == [("1=", "a"), ("1=", "b"), ("3", "c")]


def test_sharing_is_with_the_leader_not_with_the_neighbour() -> None:
    """Each is within reach of the one before (4 : 0), the last is not within reach of the first (8 : 0)."""
    found = rank_rows(
        rows(full(200, name="a"), full(196, name="b"), full(192, name="c"), full(188, name="d"))
    )
    assert shown(found) == [("1=", "a"), ("1=", "b"), ("3=", "c"), ("3=", "d")]


def test_the_same_accuracy_on_other_images_can_differ() -> None:
    """Pairs decide, not the interval of each row: 40 images against 40 others are no difference."""
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


def test_only_rows_on_the_same_images_stand_in_one_table() -> None:
    found = group_rows(
        rows(
            full(200, name="small", n=380, fingerprint="11" * 32),
            full(200, name="a"),
            full(200, name="eps", eps="8/255"),
            full(200, name="b"),
        )
    )
    assert [[row.name for row in group] for group in found] == [["a", "b"], ["small"], ["eps"]]
