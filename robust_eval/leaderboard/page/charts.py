"""The page's charts: which numbers, on which axes. Everything in percent, with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from robust_eval.core.request import CLEAN
from robust_eval.leaderboard.page.chart_geometry import (
    CHARACTER,
    Chart,
    Dot,
    Frame,
    Label,
    Mark,
    Scale,
    apart,
    beside,
    percent_scale,
    staggered,
    ticks,
)
from robust_eval.leaderboard.page.view_models import Cell, GroupView, RowView

# More lines than this cannot be told apart.
MOST_LINES = 8
WIDTH, HEIGHT = 520, 380
_FRAME = (46.0, 504.0, 14.0, 330.0)


def _frame_with_labels(names: Sequence[str]) -> Frame:
    """Room at the right for names, up to a third of the width."""
    longest = max((len(name) for name in names), default=0)
    return 46.0, WIDTH - min(16 + CHARACTER * longest, WIDTH / 3), 14.0, 330.0


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _percent(cell: Cell) -> str:
    return f"{cell.value:.1f}% ({cell.low:.1f} to {cell.high:.1f})"


def scatter(group: GroupView) -> Chart:
    """Clean accuracy across, worst case up; an arrow leads from each row to the same with AWP."""
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
            across=(x.at(c.low), x.at(c.high)),
            along=(y.at(row.worst.low), y.at(row.worst.high)),
        )
        for row, c in zip(rows, clean, strict=True)
    ]
    labels = beside(dots, [_short(row.name) for row in rows], _FRAME)
    at = {row.id: dot for row, dot in zip(rows, dots, strict=True)}
    return Chart(
        name="Clean against robust accuracy",
        width=WIDTH,
        height=HEIGHT,
        frame=_FRAME,
        x_title="clean accuracy, %",
        y_title="worst case, %",
        x_ticks=ticks(x),
        y_ticks=ticks(y),
        marks=tuple(
            Mark(row.id, row.name, row.colour, row in group.without_awp, (dot,), label)
            for row, dot, label in zip(rows, dots, labels, strict=True)
        ),
        arrows=tuple(
            (at[a.id].x, at[a.id].y, at[b.id].x, at[b.id].y)
            for a, b in group.pairs
            if a.id in at and b.id in at
        ),
    )


def attacks(group: GroupView) -> Chart | None:
    """Accuracy under each attack, a line for each of the best rows. None where there is one column."""
    rows, columns = group.rows[:MOST_LINES], list(group.columns)
    if len(columns) < 2:
        return None
    frame = _frame_with_labels([_short(row.name) for row in rows])
    left, right, top, bottom = frame
    y = percent_scale([v for row in rows for c in row.cells.values() for v in (c.low, c.high)], bottom, top)
    x = Scale(-0.3, len(columns) - 0.7, left, right)
    shift = min(4.0, 22.0 / max(len(rows), 1))
    marks = []
    for number, row in enumerate(rows):
        # Side by side, so that intervals of one column do not hide each other.
        offset = (number - (len(rows) - 1) / 2) * shift
        dots = tuple(
            Dot(
                round(x.at(place) + offset, 2),
                y.at(row.cells[name].value),
                f"{row.name}, {group.columns[name]}: {_percent(row.cells[name])}",
                along=(y.at(row.cells[name].low), y.at(row.cells[name].high)),
            )
            for place, name in enumerate(columns)
            if name in row.cells
        )
        marks.append((row, dots))
    return Chart(
        name="Accuracy under each attack",
        width=WIDTH,
        height=HEIGHT,
        frame=frame,
        x_title="attack",
        y_title="accuracy, %",
        x_ticks=staggered([(x.at(place), group.columns[name]) for place, name in enumerate(columns)]),
        y_ticks=ticks(y),
        marks=_labelled([(r.id, r.name, r.colour, r in group.without_awp, d) for r, d in marks if d], frame),
    )


_Line = tuple[str, str, int, bool, tuple[Dot, ...]]


def _labelled(lines: Sequence[_Line], frame: Frame) -> tuple[Mark, ...]:
    """Each line's name at its right end; names that would overlap move apart."""
    _, right, top, bottom = frame
    wanted = [Label(right + 8, dots[-1].y + 4, _short(name)) for _, name, _, _, dots in lines]
    placed = apart(wanted, top + 6, bottom + 4)
    return tuple(Mark(*line, label) for line, label in zip(lines, placed, strict=True))


def epsilons(groups: Sequence[GroupView]) -> list[Chart]:
    """Worst case against epsilon, for checkpoints that a board holds under several; one chart per norm."""
    found: dict[tuple[str, ...], dict[tuple[str, str], list[RowView]]] = {}
    for group in groups:
        for row in (row for row in group.rows if CLEAN in row.cells):
            r = row.result
            setting = (r.data.name, r.data.fingerprint, r.threat.norm, r.suite.name)
            found.setdefault(setting, {}).setdefault((r.checkpoint.sha256, row.name), []).append(row)
    charts = []
    for (data, _, norm, suite), checkpoints in found.items():
        lines = [rows for rows in checkpoints.values() if len({r.result.threat.eps_value for r in rows}) > 1]
        if lines:
            lines.sort(key=lambda rows: -max(row.worst.value for row in rows))
            charts.append(_epsilon(f"{data}, {norm}, suite {suite}", norm, lines[:MOST_LINES]))
    return charts


def _epsilon(where: str, norm: str, lines: Sequence[Sequence[RowView]]) -> Chart:
    frame = _frame_with_labels([_short(rows[0].name) for rows in lines])
    left, right, top, bottom = frame
    texts = {row.result.threat.eps_value: row.result.threat.eps for rows in lines for row in rows}
    x = Scale(0.0, max(texts) * 1.04, left, right)
    cells = [[(0.0, rows[0].cells[CLEAN]), *_by_eps(rows)] for rows in lines]
    y = percent_scale([v for line in cells for _, c in line for v in (c.low, c.high)], bottom, top)
    marks: list[_Line] = []
    for rows, line in zip(lines, cells, strict=True):
        name = rows[0].name
        dots = tuple(
            Dot(
                x.at(eps),
                y.at(c.value),
                f"{name}, eps {texts.get(eps, '0 (clean)')}: {_percent(c)}",
                along=(y.at(c.low), y.at(c.high)),
            )
            for eps, c in line
        )
        marks.append((rows[0].id, name, rows[0].colour, not rows[0].with_awp, dots))
    return Chart(
        name=f"Robust accuracy against epsilon: {where}",
        width=WIDTH,
        height=HEIGHT,
        frame=frame,
        x_title=f"{norm} epsilon (0: clean accuracy)",
        y_title="worst case, %",
        x_ticks=staggered([(x.at(0), "0"), *((x.at(eps), text) for eps, text in sorted(texts.items()))]),
        y_ticks=ticks(y),
        marks=_labelled(marks, frame),
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
    """Accuracy against epoch while the model was trained; None where nothing was measured."""
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
    marks: list[_Line] = []
    for name, line in found.items():
        title, colour, dashed = _CURVES[name]
        dots = tuple(Dot(x.at(e), y.at(v), f"{title}, epoch {e:g}: {v:.1f}%") for e, v in line)
        marks.append(("", title, colour, dashed, dots))
    return Chart(
        name="Learning curve",
        width=WIDTH,
        height=HEIGHT - 100,
        frame=frame,
        x_title="epoch",
        y_title="accuracy, %",
        x_ticks=ticks(x),
        y_ticks=ticks(y),
        marks=_labelled(marks, frame),
    )
