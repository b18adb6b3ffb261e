"""Robustness against the values of a swept field: Figures 2 and 3(c) of the AWP paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log10
from typing import TYPE_CHECKING, Any, Literal

from defenses.sweeps.axes import Axis
from defenses.sweeps.training import SweepRun
from defenses.training.seeds import SeedStatistics, seed_statistics
from robust_eval.core import figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Epoch = Literal["best", "last"]
# The axis is logarithmic if the largest positive value is at least this many times the smallest.
MIN_LOG_RATIO = 20
# Symbols of the paper; other fields are labelled by their names.
LABELS = {
    "perturbation.gamma": "γ (size of v relative to the layer's weights)",
    "perturbation.alternations": "A (alternations)",
    "perturbation.steps": "K2 (ascent steps on the weights)",
    "perturbation.size": "norm that measures v",
    "inner.steps": "K1 (PGD steps)",
}


@dataclass(frozen=True)
class SweepMark:
    """One value on a line: accuracies in percent, over the seeds that could be trained."""

    value: str
    unseen: SeedStatistics | None
    train: SeedStatistics | None
    natural: SeedStatistics | None
    failed: int
    """Number of seeds that could not be trained."""


@dataclass(frozen=True)
class Series:
    """One line of the figure."""

    name: str
    marks: tuple[SweepMark, ...]


def sweep_series(runs: Sequence[SweepRun], axes: Sequence[Axis], epoch: Epoch) -> tuple[list[Series], str]:
    """A line for each recipe and each combination of the axes after the first, over the first axis.

    Also returns which unseen images are shown: ``test`` if every run measured them, else ``val``.
    """
    trained = [run for run in runs if run.failed is None]
    part = "test" if trained and all("test_pgd" in getattr(run, epoch) for run in trained) else "val"
    several_recipes = len({run.recipe for run in runs}) > 1
    lines: dict[str, dict[str, list[SweepRun]]] = {}
    for run in runs:
        others = [f"{axis.short} {run.values[axis.field]}" for axis in axes[1:]]
        name = ", ".join([*([run.recipe] if several_recipes or not others else []), *others])
        lines.setdefault(name, {}).setdefault(run.values[axes[0].field], []).append(run)
    return [
        Series(name, tuple(_mark(value, lines[name][value], epoch, part) for value in axes[0].values))
        for name in lines
    ], part


def _mark(value: str, runs: Sequence[SweepRun], epoch: Epoch, part: str) -> SweepMark:
    rows: list[Mapping[str, float]] = [getattr(run, epoch) for run in runs if run.failed is None]
    failed = sum(run.failed is not None for run in runs)
    return SweepMark(
        value,
        _percent(rows, f"{part}_pgd"),
        _percent(rows, "train_pgd"),
        _percent(rows, f"{part}_clean"),
        failed,
    )


def _percent(rows: Sequence[Mapping[str, float]], name: str) -> SeedStatistics | None:
    values = [100 * row[name] for row in rows if name in row]
    return seed_statistics(values) if values and len(values) == len(rows) else None


def draw_sweep(lines: Sequence[Series], axis: Axis, part: str) -> Figure:
    """Unseen images solid, training images dashed; a cross on the axis marks values that did not train."""
    positions = axis_positions(axis.values)
    with figure_style.style():
        canvas, (axes,) = figure_style.panels(height=2.8)
        for index, line in enumerate(lines):
            style = figure_style.line(index)
            for name, dashes, label in (("unseen", "-", line.name), ("train", "--", None)):
                drawn = [(positions[m.value], s) for m in line.marks if (s := getattr(m, name)) is not None]
                axes.errorbar(
                    [x for x, _ in drawn],
                    [s.mean for _, s in drawn],
                    yerr=[s.sd for _, s in drawn] if any(s.sd for _, s in drawn) else None,
                    capsize=2,
                    elinewidth=0.8,
                    **style | {"linestyle": dashes, "alpha": 1.0 if name == "unseen" else 0.6},
                    label=label,
                )
        _crosses(axes, lines, positions)
        _axis(axes, axis, positions)
        axes.set_ylabel("robust accuracy (%)")
        images = "test" if part == "test" else "held-out"
        axes.set_title(f"solid: {images} images, dashed: training images")
        axes.legend()
    return canvas


def _crosses(axes: Axes, lines: Sequence[Series], positions: Mapping[str, float]) -> None:
    failed = sorted({positions[mark.value] for line in lines for mark in line.marks if mark.failed})
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


def axis_positions(values: Sequence[str]) -> dict[str, float]:
    """Positions on the x axis: numbers by value or, over a large range, by log10; other values 0, 1, ..."""
    numbers = [_number(value) for value in values]
    if any(number is None for number in numbers):
        return {value: float(index) for index, value in enumerate(values)}
    known = {value: float(value) for value in values}
    positive = [number for number in known.values() if number > 0]
    if min(known.values()) < 0 or not positive or max(positive) / min(positive) < MIN_LOG_RATIO:
        return known
    # 0 has no logarithm; it is drawn half a decade left of the smallest value.
    left = log10(min(positive)) - 0.5
    return {value: log10(number) if number > 0 else left for value, number in known.items()}


def _axis(axes: Axes, axis: Axis, positions: Mapping[str, float]) -> None:
    axes.set_xticks(list(positions.values()), list(positions), rotation=0 if len(positions) < 7 else 45)
    axes.set_xlabel(LABELS.get(axis.field, axis.field))


def sweep_record(
    runs: Sequence[SweepRun], lines: Sequence[Series], axes: Sequence[Axis], epoch: Epoch, part: str
) -> dict[str, Any]:
    """The content of the figure's JSON file: the lines, and every run."""
    return {
        "kind": "sweep",
        "units": "series in percent, runs in fractions",
        "checkpoint": f"{epoch} epoch" + (", chosen on held-out training images" if epoch == "best" else ""),
        "unseen_images": "test" if part == "test" else "held out from the training set",
        "over": [asdict(axis) for axis in axes],
        "series": [asdict(line) for line in lines],
        "runs": [asdict(run) for run in runs],
    }
