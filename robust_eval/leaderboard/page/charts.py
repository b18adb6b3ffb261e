"""The charts of the page. Accuracies in percent, with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from robust_eval.core.request import CLEAN
from robust_eval.leaderboard.page.chart_geometry import (
    CHARACTER,
    Chart,
    ChartSeries,
    Dot,
    Frame,
    Label,
    Scale,
    label_points,
    make_ticks,
    move_apart,
    percent_scale,
    stagger_labels,
)
from robust_eval.leaderboard.page.view_models import Cell, GroupView, RowView
from robust_eval.leaderboard.ranking import group_key

# More lines than this cannot be distinguished.
MAX_LINES = 8
WIDTH, HEIGHT = 520, 380
_FRAME = (46.0, 504.0, 14.0, 330.0)


def _frame_with_labels(names: Sequence[str]) -> Frame:
    """A frame with room for names at the right, up to a third of the width."""
    longest = max((len(name) for name in names), default=0)
    return 46.0, WIDTH - min(16 + CHARACTER * longest, WIDTH / 3), 14.0, 330.0


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _percent(cell: Cell) -> str:
    return f"{cell.value:.1f}% ({cell.low:.1f} to {cell.high:.1f})"


def scatter(group: GroupView) -> Chart:
    """Worst case (y) against clean accuracy (x); arrows lead from a row to the same recipe with AWP."""
    rows = [row for row in group.rows if CLEAN in row.cells]
    left, right, top, bottom = _FRAME
    clean = [row.cells[CLEAN] for row in rows]
    x = percent_scale([v for c in clean for v in (c.low, c.high)], left, right)
    y = percent_scale([v for row in rows for v in (row.worst.low, row.worst.high)], bottom, top)
    dots = [
        Dot(
            x.at(c.value),
            y.at(row.worst.value),
            f"{row.name}: clean {_percent(c)}, worst case {_percent(row.worst)}",
            x_interval=(x.at(c.low), x.at(c.high)),
            y_interval=(y.at(row.worst.low), y.at(row.worst.high)),
        )
        for row, c in zip(rows, clean, strict=True)
    ]
    labels = label_points(dots, [_short(row.name) for row in rows], _FRAME)
    at = {row.id: dot for row, dot in zip(rows, dots, strict=True)}
    return Chart(
        name="Clean against robust accuracy",
        width=WIDTH,
        height=HEIGHT,
        frame=_FRAME,
        x_title="clean accuracy, %",
        y_title="worst case, %",
        x_ticks=make_ticks(x),
        y_ticks=make_ticks(y),
        series=tuple(
            ChartSeries(row.id, row.name, row.colour, row in group.without_awp, (dot,), label)
            for row, dot, label in zip(rows, dots, labels, strict=True)
        ),
        arrows=tuple(
            (at[a.id].x, at[a.id].y, at[b.id].x, at[b.id].y)
            for a, b in group.pairs
            if a.id in at and b.id in at
        ),
    )


def attacks(group: GroupView) -> Chart | None:
    """Accuracy under each attack, one line per row for the best rows. None if there is only one column."""
    rows, columns = group.rows[:MAX_LINES], list(group.columns)
    if len(columns) < 2:
        return None
    frame = _frame_with_labels([_short(row.name) for row in rows])
    left, right, top, bottom = frame
    y = percent_scale([v for row in rows for c in row.cells.values() for v in (c.low, c.high)], bottom, top)
    x = Scale(-0.3, len(columns) - 0.7, left, right)
    shift = min(4.0, 22.0 / max(len(rows), 1))
    lines = []
    for number, row in enumerate(rows):
        # Rows are shifted, so that their intervals in one column do not hide each other.
        offset = (number - (len(rows) - 1) / 2) * shift
        dots = tuple(
            Dot(
                round(x.at(position) + offset, 2),
                y.at(row.cells[name].value),
                f"{row.name}, {group.columns[name]}: {_percent(row.cells[name])}",
                y_interval=(y.at(row.cells[name].low), y.at(row.cells[name].high)),
            )
            for position, name in enumerate(columns)
            if name in row.cells
        )
        lines.append((row, dots))
    return Chart(
        name="Accuracy under each attack",
        width=WIDTH,
        height=HEIGHT,
        frame=frame,
        x_title="attack",
        y_title="accuracy, %",
        x_ticks=stagger_labels(
            [(x.at(position), group.columns[name]) for position, name in enumerate(columns)]
        ),
        y_ticks=make_ticks(y),
        series=_labelled([(r.id, r.name, r.colour, r in group.without_awp, d) for r, d in lines if d], frame),
    )


_Line = tuple[str, str, int, bool, tuple[Dot, ...]]


def _labelled(lines: Sequence[_Line], frame: Frame) -> tuple[ChartSeries, ...]:
    """Label each line at its right end, without overlaps."""
    _, right, top, bottom = frame
    labels = [Label(right + 8, dots[-1].y + 4, _short(name)) for _, name, _, _, dots in lines]
    placed = move_apart(labels, top + 6, bottom + 4)
    return tuple(ChartSeries(*line, label) for line, label in zip(lines, placed, strict=True))


def epsilons(groups: Sequence[GroupView]) -> list[Chart]:
    """Worst case against epsilon, for checkpoints with rows under several epsilons; one chart per setting."""
    found: dict[tuple[Any, ...], dict[tuple[str, str], list[RowView]]] = {}
    for group in groups:
        for row in (row for row in group.rows if CLEAN in row.cells):
            data, _, norm, _, *rest = group_key(row.row)
            checkpoint = row.result.checkpoint.sha256, row.name
            found.setdefault((data, norm, *rest), {}).setdefault(checkpoint, []).append(row)
    charts = []
    for (data, norm, suite, *_), checkpoints in found.items():
        lines = [rows for rows in checkpoints.values() if len({r.result.threat.eps_value for r in rows}) > 1]
        if lines:
            lines.sort(key=lambda rows: -max(row.worst.value for row in rows))
            charts.append(_epsilon(f"{data}, {norm}, suite {suite}", norm, lines[:MAX_LINES]))
    return charts


def _epsilon(setting: str, norm: str, lines: Sequence[Sequence[RowView]]) -> Chart:
    frame = _frame_with_labels([_short(rows[0].name) for rows in lines])
    left, right, top, bottom = frame
    texts = {row.result.threat.eps_value: row.result.threat.eps for rows in lines for row in rows}
    x = Scale(0.0, max(texts) * 1.04, left, right)
    cells = [[(0.0, rows[0].cells[CLEAN]), *_by_eps(rows)] for rows in lines]
    y = percent_scale([v for line in cells for _, c in line for v in (c.low, c.high)], bottom, top)
    drawn: list[_Line] = []
    for rows, line in zip(lines, cells, strict=True):
        name = rows[0].name
        dots = tuple(
            Dot(
                x.at(eps),
                y.at(c.value),
                f"{name}, eps {texts.get(eps, '0 (clean)')}: {_percent(c)}",
                y_interval=(y.at(c.low), y.at(c.high)),
            )
            for eps, c in line
        )
        drawn.append((rows[0].id, name, rows[0].colour, not rows[0].with_awp, dots))
    return Chart(
        name=f"Robust accuracy against epsilon: {setting}",
        width=WIDTH,
        height=HEIGHT,
        frame=frame,
        x_title=f"{norm} epsilon (0: clean accuracy)",
        y_title="worst case, %",
        x_ticks=stagger_labels([(x.at(0), "0"), *((x.at(eps), text) for eps, text in sorted(texts.items()))]),
        y_ticks=make_ticks(y),
        series=_labelled(drawn, frame),
    )


def _by_eps(rows: Sequence[RowView]) -> list[tuple[float, Cell]]:
    """The best row of each epsilon."""
    best: dict[float, Cell] = {}
    for row in sorted(rows, key=lambda row: row.worst.value):
        best[row.result.threat.eps_value] = row.worst
    return sorted(best.items())


_CURVES: Mapping[str, tuple[str, int, bool]] = {
    "train_pgd": ("train, PGD", 0, False),
    "val_pgd": ("validation, PGD", 1, False),
    "test_pgd": ("test, PGD", 2, False),
    "val_clean": ("validation, clean", 1, True),
    "test_clean": ("test, clean", 2, True),
}


def curve(values: Mapping[str, Sequence[float]]) -> Chart | None:
    """Accuracy against training epoch; ``values``: column name to values; None if nothing was measured."""
    frame = 46.0, WIDTH - 118.0, 14.0, 230.0
    left, right, top, bottom = frame
    found = {
        name: [
            (epoch, 100 * value)
            for epoch, value in zip(values["epoch"], values[name], strict=True)
            if not math.isnan(value)
        ]
        for name in _CURVES
        if name in values
    }
    found = {name: line for name, line in found.items() if line}
    if not found:
        return None
    epochs = [epoch for line in found.values() for epoch, _ in line]
    x = Scale(min(0.0, min(epochs)), max(*epochs, 1.0), left, right)
    y = percent_scale([value for line in found.values() for _, value in line], bottom, top)
    drawn: list[_Line] = []
    for name, line in found.items():
        title, colour, dashed = _CURVES[name]
        dots = tuple(Dot(x.at(e), y.at(v), f"{title}, epoch {e:g}: {v:.1f}%") for e, v in line)
        drawn.append(("", title, colour, dashed, dots))
    return Chart(
        name="Learning curve",
        width=WIDTH,
        height=HEIGHT - 100,
        frame=frame,
        x_title="epoch",
        y_title="accuracy, %",
        x_ticks=make_ticks(x),
        y_ticks=make_ticks(y),
        series=_labelled(drawn, frame),
    )
