"""Geometry of a chart in drawing units: scales, ticks, points and labels that do not overlap."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor, log10

# Estimated width of a character and height of a line of a label, in drawing units; rather too wide.
CHARACTER = 7.0
LINE = 13.0

Frame = tuple[float, float, float, float]
"""The edges of the text: left, right, top, bottom."""


@dataclass(frozen=True)
class Scale:
    """Linear map from values low..high to coordinates start..end; ``end`` may be smaller than ``start``."""

    low: float
    high: float
    start: float
    end: float
    step: float | None = None
    """Distance of the ticks; None: chosen."""

    def at(self, value: float) -> float:
        """The coordinate of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, about: int = 6) -> list[float]:
        """About ``about`` round numbers from low to high."""
        step = self.step or _step(self.high - self.low, about)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [round(k * step, 10) for k in range(first, last + 1)]


def _step(span: float, about: int) -> float:
    rough = span / about
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if rough <= power * factor * 1.0001)


def percent_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale in percent that contains the values: whole steps, within 0 to 100, at least 5 wide."""
    found = list(values) or [0.0, 100.0]
    low, high = min(found), max(found)
    if high - low < 5:
        low, high = low - 2.5, high + 2.5
    step = _step(high - low, 6)
    low, high = max(0.0, floor(low / step) * step), min(100.0, ceil(high / step) * step)
    return Scale(low, high, start, end, step)


@dataclass(frozen=True)
class Dot:
    """A point, with an interval (in coordinates) along either axis if there is one."""

    x: float
    y: float
    text: str
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Label:
    """Text at a point; ``anchor`` is SVG's ``text-anchor``."""

    x: float
    y: float
    text: str
    anchor: str = "start"

    def box(self) -> Frame:
        """The edges of the text: left, right, top, bottom."""
        width = CHARACTER * len(self.text)
        left = {"start": self.x, "middle": self.x - width / 2, "end": self.x - width}[self.anchor]
        return left, left + width, self.y - LINE * 0.8, self.y + LINE * 0.2


@dataclass(frozen=True)
class ChartSeries:
    """The points of one row in a chart, joined by a line if there are several."""

    row: str
    """Id of the row it links to; empty for none."""
    name: str
    colour: int
    hollow: bool
    """Hollow points and a dashed line: the row of a pair without AWP."""
    dots: tuple[Dot, ...]
    label: Label | None = None

    @property
    def path(self) -> str:
        """SVG path through the points."""
        return "M" + "L".join(f"{dot.x:g} {dot.y:g}" for dot in self.dots)


@dataclass(frozen=True)
class Tick:
    """A tick of an axis and its label."""

    position: float
    text: str
    line: int = 0
    """Line of the label, counted from 0 downwards."""


@dataclass(frozen=True)
class Chart:
    """Everything that the template needs to draw a chart."""

    name: str
    """Caption and accessible name."""
    width: int
    height: int
    frame: Frame
    """left, right, top, bottom of the plotting area."""
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[ChartSeries, ...]
    arrows: tuple[Frame, ...] = ()


def make_ticks(scale: Scale, about: int = 6) -> tuple[Tick, ...]:
    """The ticks of a numeric axis."""
    return tuple(Tick(scale.at(value), f"{value:g}") for value in scale.ticks(about))


def stagger_labels(names: Sequence[tuple[float, str]]) -> tuple[Tick, ...]:
    """Ticks for (position, name); every second name is one line lower if any two would touch."""
    touch = any(
        CHARACTER * (len(a) + len(b)) / 2 > at_b - at_a - 4 for (at_a, a), (at_b, b) in pairwise(names)
    )
    return tuple(Tick(at, name, number % 2 if touch else 0) for number, (at, name) in enumerate(names))


def move_apart(labels: Sequence[Label], top: float, bottom: float) -> list[Label]:
    """The same labels in the same order, moved vertically until none overlaps another."""
    order = sorted(range(len(labels)), key=lambda i: labels[i].y)
    ys: list[float] = []
    for i in order:
        ys.append(max(labels[i].y, ys[-1] + LINE if ys else top))
    overflow = ys[-1] - bottom if ys else 0.0
    if overflow > 0:
        limit = bottom
        for k in reversed(range(len(ys))):
            ys[k] = min(ys[k], limit)
            limit = ys[k] - LINE
    placed = dict(zip(order, ys, strict=True))
    return [replace(label, y=round(placed[i], 2)) for i, label in enumerate(labels)]


def label_points(dots: Sequence[Dot], names: Sequence[str], frame: Frame) -> list[Label | None]:
    """A label beside each point, at the first free position; None if there is no room."""
    taken = [(dot.x - 6, dot.x + 6, dot.y - 6, dot.y + 6) for dot in dots]
    labels: list[Label | None] = []
    for dot, name in zip(dots, names, strict=True):
        sides = (
            Label(dot.x + 6, dot.y - 9, name),
            Label(dot.x - 6, dot.y - 9, name, "end"),
            Label(dot.x + 6, dot.y + 17, name),
            Label(dot.x - 6, dot.y + 17, name, "end"),
        )
        label = next((side for side in sides if _fits(side.box(), taken, frame)), None)
        if label is not None:
            taken.append(label.box())
        labels.append(label)
    return labels


def _fits(box: Frame, taken: Iterable[Frame], frame: Frame) -> bool:
    left, right, top, bottom = box
    inside = left >= frame[0] and right <= frame[1] and top >= frame[2] and bottom <= frame[3]
    return inside and not any(
        left < b_right and right > b_left and top < b_bottom and bottom > b_top
        for b_left, b_right, b_top, b_bottom in taken
    )
