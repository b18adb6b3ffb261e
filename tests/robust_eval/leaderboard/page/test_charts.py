"""Geometry and content of the page's charts."""

from __future__ import annotations

from itertools import combinations

import pytest
from support import board_rows

from robust_eval.leaderboard.page import charts
from robust_eval.leaderboard.page.chart_geometry import (
    Chart,
    Dot,
    Label,
    Scale,
    label_points,
    move_apart,
    percent_scale,
    stagger_labels,
)
from robust_eval.leaderboard.page.view_models import GroupView, group_views
from robust_eval.leaderboard.row import Row
from robust_eval.results import EvalResult


@pytest.fixture(scope="module")
def base() -> EvalResult:
    return board_rows.template()


@pytest.fixture(scope="module")
def group(base: EvalResult) -> GroupView:
    (found,) = group_views(board_rows.rows(base), {})
    return found


def overlap(one: Label, other: Label) -> bool:
    a, b = one.box(), other.box()
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def test_a_scale_has_round_ticks() -> None:
    scale = percent_scale([46.5, 81.2], 300, 0)
    assert (scale.low, scale.high) == (40, 90)
    assert scale.ticks() == [40, 50, 60, 70, 80, 90]
    assert (scale.at(40), scale.at(90)) == (300, 0)
    assert percent_scale([39.5, 97.5], 0, 1).ticks()[0] == percent_scale([39.5, 97.5], 0, 1).low
    assert percent_scale([99.0, 99.5, 100.0], 0, 1).high == 100
    assert percent_scale([50.0], 0, 1).low < 50 < percent_scale([50.0], 0, 1).high
    assert Scale(0, 0.3, 0, 1).ticks(3) == [0, 0.1, 0.2, 0.3]


def test_labels_are_moved_apart_and_stay_inside_the_frame() -> None:
    labels = [Label(0, y, "name") for y in (100, 101, 102, 299, 300)]
    placed = move_apart(labels, 0, 300)
    assert [label.y for label in placed] == sorted(label.y for label in placed)
    assert not any(overlap(a, b) for a, b in combinations(placed, 2))
    assert max(label.y for label in placed) <= 300


def test_point_labels_do_not_overlap_or_are_omitted() -> None:
    frame = (0.0, 200.0, 0.0, 100.0)
    dots = [Dot(20.0 * k, 50.0, "") for k in range(10)]
    labels = [label for label in label_points(dots, ["a long name"] * 10, frame) if label]
    assert 0 < len(labels) < 10
    assert not any(overlap(a, b) for a, b in combinations(labels, 2))
    assert all(label.box()[1] <= 200 for label in labels)


def test_long_names_under_an_axis_are_staggered() -> None:
    assert [t.line for t in stagger_labels([(0, "PGD-20"), (100, "AutoAttack")])] == [0, 0]
    assert [t.line for t in stagger_labels([(0, "AutoAttack"), (50, "AutoAttack"), (99, "x")])] == [0, 1, 0]


def inside(chart: Chart) -> None:
    left, right, top, bottom = chart.frame
    for line in chart.series:
        for dot in line.dots:
            assert left - 15 <= dot.x <= right + 15
            assert top <= dot.y <= bottom
            assert all(top <= y <= bottom for y in dot.y_interval or ())


def test_scatter_shows_higher_accuracy_up_and_right(group: GroupView) -> None:
    chart = charts.scatter(group)
    inside(chart)
    at = {line.name: line for line in chart.series}
    assert at["trades-awp"].dots[0].y < at["at-awp"].dots[0].y < at["at"].dots[0].y < at["fgsm-rs"].dots[0].y
    assert at["fgsm-rs"].dots[0].x < at["at"].dots[0].x < at["at-awp"].dots[0].x
    assert at["at"].dots[0].text == "at: clean 98.0% (96.1 to 99.0), worst case 60.5% (55.6 to 65.2)"


def test_scatter_connects_pairs_and_gives_them_one_colour(group: GroupView) -> None:
    chart = charts.scatter(group)
    at = {line.name: line for line in chart.series}
    assert at["at"].colour == at["at-awp"].colour != at["trades"].colour
    assert (at["at"].hollow, at["at-awp"].hollow, at["fgsm-rs"].hollow) == (True, False, False)
    start, end = at["at"].dots[0], at["at-awp"].dots[0]
    assert (start.x, start.y, end.x, end.y) in chart.arrows


def test_attacks_chart_has_a_line_per_row_and_a_point_per_attack(group: GroupView) -> None:
    chart = charts.attacks(group)
    assert chart is not None
    inside(chart)
    assert [tick.text for tick in chart.x_ticks] == ["Clean", "FGSM", "PGD-20", "CW-inf", "AutoAttack"]
    assert {line.name: len(line.dots) for line in chart.series} == {
        "trades-awp": 5,
        "at-awp": 5,
        "trades": 5,
        "at": 5,
        "fgsm-rs": 5,
        "other": 4,
    }


def test_epsilon_chart_starts_at_the_clean_accuracy(base: EvalResult) -> None:
    rows = [Row(f"{eps}.json", board_rows.result(base, "at", eps=eps)) for eps in ("0.05", "0.1", "0.15")]
    rows.append(Row("other.json", board_rows.result(base, "trades")))
    (chart,) = charts.epsilons(group_views(rows, {}))
    inside(chart)
    assert [tick.text for tick in chart.x_ticks] == ["0", "0.05", "0.1", "0.15"]
    (line,) = chart.series
    assert [dot.y for dot in line.dots] == sorted(dot.y for dot in line.dots)
    assert charts.epsilons(group_views(rows[2:], {})) == []


def test_a_learning_curve_omits_missing_values() -> None:
    nan = float("nan")
    chart = charts.curve(
        {"epoch": [1, 2, 3], "train_pgd": [0.1, 0.2, 0.3], "val_pgd": [nan, 0.2, nan], "lr": [1, 1, 1]}
    )
    assert chart is not None
    assert {line.name: len(line.dots) for line in chart.series} == {"train, PGD": 3, "validation, PGD": 1}
    assert charts.curve({"epoch": [1], "val_pgd": [nan]}) is None
