"""The geometry of a chart: scales, ticks and labels that keep out of each other's way. Pure numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor, log10

# Width of a character of a label, in units of the drawing; an estimate that errs on the wide side.
CHARACTER = 7.0
LINE = 13.0

Frame = tuple[float, float, float, float]
"""left, right, top, bottom."""


@dataclass(frozen=True)
class Scale:
    """Values low..high onto coordinates start..end; ``end`` may be the smaller."""

    low: float
    high: float
    start: float
    end: float
    step: float | None = None
    """Between ticks; chosen where there is none."""

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self, about: int = 6) -> list[float]:
        """Round numbers from low to high."""
        step = self.step or _step(self.high - self.low, about)
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [round(k * step, 10) for k in range(first, last + 1)]


def _step(span: float, about: int) -> float:
    rough = span / about
    power = 10.0 ** floor(log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if rough <= power * factor * 1.0001)


def percent_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """A scale in percent around the values: whole steps, within 0 to 100, never narrower than 5."""
    found = list(values) or [0.0, 100.0]
    low, high = min(found), max(found)
    if high - low < 5:
        low, high = low - 2.5, high + 2.5
    step = _step(high - low, 6)
    low, high = max(0.0, floor(low / step) * step), min(100.0, ceil(high / step) * step)
    return Scale(low, high, start, end, step)


@dataclass(frozen=True)
class Dot:
    """A point; a whisker along either axis where there is an interval."""

    x: float
    y: float
    text: str
    across: tuple[float, float] | None = None
    along: tuple[float, float] | None = None


@dataclass(frozen=True)
class Label:
    x: float
    y: float
    text: str
    anchor: str = "start"

    def box(self) -> Frame:
        """left, right, top, bottom."""
        width = CHARACTER * len(self.text)
        left = {"start": self.x, "middle": self.x - width / 2, "end": self.x - width}[self.anchor]
        return left, left + width, self.y - LINE * 0.8, self.y + LINE * 0.2


@dataclass(frozen=True)
class Mark:
    """One row's part of a chart."""

    row: str
    """Id of the row it belongs to; empty where it is not a link."""
    name: str
    colour: int
    open: bool
    """Hollow and dashed: the member of a pair without AWP."""
    dots: tuple[Dot, ...]
    label: Label | None = None

    @property
    def path(self) -> str:
        return "M" + "L".join(f"{dot.x:g} {dot.y:g}" for dot in self.dots)


@dataclass(frozen=True)
class Tick:
    at: float
    text: str
    drop: int = 0
    """Lines below the first, for names that would touch their neighbours."""


@dataclass(frozen=True)
class Chart:
    name: str
    """What it shows, for those who cannot see it."""
    width: int
    height: int
    frame: Frame
    """left, right, top, bottom of the plotting area."""
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    arrows: tuple[Frame, ...] = ()


def ticks(scale: Scale, about: int = 6) -> tuple[Tick, ...]:
    return tuple(Tick(scale.at(value), f"{value:g}") for value in scale.ticks(about))


def staggered(names: Sequence[tuple[float, str]]) -> tuple[Tick, ...]:
    """Names under their places, every other one a line lower where two would touch."""
    touch = any(
        CHARACTER * (len(a) + len(b)) / 2 > at_b - at_a - 4 for (at_a, a), (at_b, b) in pairwise(names)
    )
    return tuple(Tick(at, name, number % 2 if touch else 0) for number, (at, name) in enumerate(names))


def apart(labels: Sequence[Label], top: float, bottom: float) -> list[Label]:
    """The same labels, in their order, moved up or down until none covers another."""
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


def beside(dots: Sequence[Dot], names: Sequence[str], frame: Frame) -> list[Label | None]:
    """A label beside each point, on the first free side; None where there is no room."""
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


def _fits(
    box: Frame,
    taken: Iterable[Frame],
    frame: Frame,
) -> bool:
    left, right, top, bottom = box
    inside = left >= frame[0] and right <= frame[1] and top >= frame[2] and bottom <= frame[3]
    return inside and not any(
        left < b_right and right > b_left and top < b_bottom and bottom > b_top
        for b_left, b_right, b_top, b_bottom in taken
    )
