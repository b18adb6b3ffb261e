"""Rules that count examples fire only if an effect is beyond chance and beyond a stated size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from robust_eval.core.types import Bools
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.leaderboard.row import read_rows
from robust_eval.results import EvalResult, flags
from robust_eval.verification.selftest.planted_results import column

BOARDS = sorted(path.parent for path in Path(__file__).resolve().parents[4].glob("leaderboards/*/results"))
SOUND = {"too-few-examples", "selected-on-test"}
"""Flags of correct evaluations: of a sample, and of a checkpoint's own record."""


def robust(n: int, *broken: range) -> Bools:
    """Verdicts (n,): robust except for the examples of the ranges."""
    bits = np.ones(n, dtype=bool)
    for examples in broken:
        bits[list(examples)] = False
    return bits


def raised(columns: dict[str, Bools], square: int = 0) -> dict[str, str]:
    """Id to figure of the flags of columns; Square broke ``square`` of AutoAttack's examples."""
    made = {name: column(bits, square if name == "aa" else 0) for name, bits in columns.items()}
    found = {flag.id: flag.figure for flag in flags.from_columns(made, 10)}
    found.pop("too-few-examples", None)
    return found


@pytest.mark.parametrize(("n", "square", "expected"), [(1000, 10, False), (1000, 11, True), (50, 1, False)])
def test_square_may_break_a_few_examples_alone(n: int, square: int, expected: bool) -> None:
    found = raised({"clean": robust(n), "aa": robust(n, range(n // 5))}, square)
    assert (set(found) == {"black-box-beats-white-box"}) == expected
    assert expected or not found


def test_figures_state_the_effect_and_its_interval() -> None:
    pgd, aa = robust(1000, range(100)), robust(1000, range(300))
    found = raised({"clean": robust(1000), "pgd-20": pgd, "spsa": aa, "aa": aa})
    assert found == {
        "black-box-beats-white-box": "200 of 1000 examples (20.0%, 95% interval 17.6% to 22.6%)",
        "pgd-far-above-autoattack": "pgd-20 leaves 90.0%, aa 70.0% (difference 20.0%, 95% interval 17.5% to "
        "22.5%)",
    }


@pytest.mark.parametrize(("gap", "expected"), [(98, False), (99, True)])
def test_the_gap_between_pgd_and_autoattack(gap: int, expected: bool) -> None:
    """At n = 1,000 the interval of 9.8 points begins at 8.0."""
    found = raised(
        {"clean": robust(1000), "pgd-100": robust(1000, range(100)), "aa": robust(1000, range(100 + gap))}
    )
    assert ("pgd-far-above-autoattack" in found) == expected


def test_a_weaker_attack_may_break_a_few_other_examples() -> None:
    few = {
        "clean": robust(1000),
        "pgd-20": robust(1000, range(100, 212)),
        "pgd-100": robust(1000, range(100, 200)),
    }
    assert raised(few) == {}
    found = raised({**few, "pgd-20": robust(1000, range(100, 230))})
    net = "net 3.0%, 95% interval 1.9% to 4.1%"
    assert found == {"weaker-beats-stronger": f"pgd-20 alone breaks 30 examples, pgd-100 alone 0 ({net})"}


@pytest.mark.parametrize("n", [40, 49, 50, 1000])
def test_gradient_attacks_that_break_nothing_block(n: int) -> None:
    wrong = range(n, n + 3)
    bits = robust(n + 3, wrong)
    found = raised({"clean": bits, "fgsm": bits, "pgd-20": bits, "apgd-ce-t": bits})
    assert set(found) == {"attack-without-effect"}
    assert (
        f"fgsm, pgd-20, apgd-ce-t: none of {n} examples broken (0.0%, 95% interval 0.0% to"
        in found.popitem()[1]
    )
    assert flags.RULES["attack-without-effect"].severity == flags.BLOCKS


def test_fewer_examples_may_all_be_robust() -> None:
    assert raised({"clean": robust(39), "pgd-20": robust(39)}) == {}


@pytest.mark.parametrize(
    ("n", "others", "expected"),
    [(50, 3, False), (50, 20, False), (50, 27, True), (1000, 20, False), (1000, 40, True)],
)
def test_one_column_without_effect(n: int, others: int, expected: bool) -> None:
    """FGSM breaks at least a fifth of what other attacks break, up to chance."""
    found = raised({"clean": robust(n), "fgsm": robust(n), "aa": robust(n, range(others))})
    assert ("attack-without-effect" in found) == expected
    assert not expected or "other attacks break" in found["attack-without-effect"]


def results() -> Iterator[EvalResult]:
    for board in BOARDS:
        yield from (row.result for row in read_rows(board))


def test_no_row_of_the_boards_raises_a_flag() -> None:
    found = [(result.request, flag.id) for result in results() for flag in flags.from_result(result)]
    assert len(list(results())) >= 20
    assert not [(request, name) for request, name in found if name not in SOUND]


@pytest.mark.parametrize(("n", "most"), [(50, 0.03), (100, 0.0), (200, 0.0)])
def test_small_parts_of_the_rows_rarely_raise_a_flag(n: int, most: float) -> None:
    """Robust MNIST networks lose 8% of their examples, of which a part of 50 may contain none."""
    parts, flagged = 0, 0
    for result in results():
        bits = {name: parse_bits(found.robust_bits) for name, found in result.columns.items()}
        for start in range(0, result.data.n - n + 1, n):
            part = {name: column(found[start : start + n]) for name, found in bits.items()}
            ids = {flag.id for flag in flags.from_columns(part, result.checkpoint.classes)}
            parts, flagged = parts + 1, flagged + bool(ids - SOUND)
    assert flagged <= most * parts
