"""Robustness against a swept field: Figures 2 and 3(c) of the AWP paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from defenses.sweeps.axes import Axis
from defenses.sweeps.training import SweepRun
from defenses.training.seeds import Spread, spread
from robust_eval.core import figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

When = Literal["best", "last"]
# Beyond this ratio of largest to smallest positive value an axis is logarithmic.
DECADES = 20
# The paper's letters; other fields go by their names.
LABELS = {
    "perturbation.gamma": "γ (size of v relative to the layer's weights)",
    "perturbation.alternations": "A (alternations)",
    "perturbation.steps": "K2 (ascent steps on the weights)",
    "perturbation.size": "norm that measures v",
    "inner.steps": "K1 (PGD steps)",
}


@dataclass(frozen=True)
class SweepMark:
    """One point of a line: percent, over the seeds that could be trained."""

    value: str
    unseen: Spread | None
    train: Spread | None
    natural: Spread | None
    failed: int
    """Seeds that could not be trained."""


@dataclass(frozen=True)
class Series:
    name: str
    marks: tuple[SweepMark, ...]


def series(found: Sequence[SweepRun], axes: Sequence[Axis], when: When) -> tuple[list[Series], str]:
    """A line for each recipe and each combination of the axes after the first, over the first.

    Also which unseen images the figures are of: ``test`` if every run measured those, else ``val``.
    """
    whole = [one for one in found if one.failed is None]
    part = "test" if whole and all("test_pgd" in getattr(one, when) for one in whole) else "val"
    recipes = len({one.recipe for one in found}) > 1
    lines: dict[str, dict[str, list[SweepRun]]] = {}
    for one in found:
        others = [f"{axis.short} {one.values[axis.field]}" for axis in axes[1:]]
        name = ", ".join([*([one.recipe] if recipes or not others else []), *others])
        lines.setdefault(name, {}).setdefault(one.values[axes[0].field], []).append(one)
    return [
        Series(name, tuple(_mark(value, lines[name][value], when, part) for value in axes[0].values))
        for name in lines
    ], part


def _mark(value: str, runs: Sequence[SweepRun], when: When, part: str) -> SweepMark:
    rows: list[Mapping[str, float]] = [getattr(one, when) for one in runs if one.failed is None]
    failed = sum(one.failed is not None for one in runs)
    return SweepMark(
        value,
        _percent(rows, f"{part}_pgd"),
        _percent(rows, "train_pgd"),
        _percent(rows, f"{part}_clean"),
        failed,
    )


def _percent(rows: Sequence[Mapping[str, float]], name: str) -> Spread | None:
    values = [100 * row[name] for row in rows if name in row]
    return spread(values) if values and len(values) == len(rows) else None


def draw(lines: Sequence[Series], axis: Axis, part: str) -> Figure:
    """Unseen images solid, training images dashed; a cross below where nothing could be trained."""
    places = _places(axis.values)
    with figure_style.style():
        canvas, (axes,) = figure_style.panels(height=2.8)
        for place, line in enumerate(lines):
            look = figure_style.line(place)
            for name, dashes, label in (("unseen", "-", line.name), ("train", "--", None)):
                drawn = [(places[m.value], s) for m in line.marks if (s := getattr(m, name)) is not None]
                axes.errorbar(
                    [x for x, _ in drawn],
                    [s.mean for _, s in drawn],
                    yerr=[s.sd for _, s in drawn] if any(s.sd for _, s in drawn) else None,
                    capsize=2,
                    elinewidth=0.8,
                    **look | {"linestyle": dashes, "alpha": 1.0 if name == "unseen" else 0.6},
                    label=label,
                )
        _crosses(axes, lines, places)
        _axis(axes, axis, places)
        axes.set_ylabel("robust accuracy (%)")
        images = "test" if part == "test" else "held-out"
        axes.set_title(f"solid: {images} images, dashed: training images")
        axes.legend()
    return canvas


def _crosses(axes: Axes, lines: Sequence[Series], places: Mapping[str, float]) -> None:
    failed = sorted({places[mark.value] for line in lines for mark in line.marks if mark.failed})
    if failed:
        bottom = axes.get_ylim()[0]
        axes.plot(
            failed, [bottom] * len(failed), "x", color=figure_style.GREY, clip_on=False, label="did not train"
        )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _places(values: Sequence[str]) -> dict[str, float]:
    """Numbers where they are, on a logarithmic axis by their exponent; words side by side."""
    numbers = [_number(value) for value in values]
    if any(number is None for number in numbers):
        return {value: float(place) for place, value in enumerate(values)}
    known = {value: float(value) for value in values}
    positive = [number for number in known.values() if number > 0]
    if min(known.values()) < 0 or not positive or max(positive) / min(positive) < DECADES:
        return known
    from math import log10

    # 0 has no logarithm: it stands a little to the left of the smallest.
    left = log10(min(positive)) - 0.5
    return {value: log10(number) if number > 0 else left for value, number in known.items()}


def _axis(axes: Axes, axis: Axis, places: Mapping[str, float]) -> None:
    axes.set_xticks(list(places.values()), list(places), rotation=0 if len(places) < 7 else 45)
    axes.set_xlabel(LABELS.get(axis.field, axis.field))


def data(
    found: Sequence[SweepRun], lines: Sequence[Series], axes: Sequence[Axis], when: When, part: str
) -> dict[str, Any]:
    """Everything the figure shows, and every run."""
    return {
        "kind": "sweep",
        "units": "series in percent, runs in fractions",
        "checkpoint": f"{when} epoch" + (", chosen on held-out training images" if when == "best" else ""),
        "unseen_images": "test" if part == "test" else "held out from the training set",
        "over": [asdict(axis) for axis in axes],
        "series": [asdict(line) for line in lines],
        "runs": [asdict(one) for one in found],
    }
