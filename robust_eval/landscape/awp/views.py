"""The three views of a scan - curve, plane, perturbations - each with its plan, its figure and its table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from robust_eval.core import figure_style
from robust_eval.core.errors import UserError
from robust_eval.landscape.awp import curve, figures, plane, scan, weight_noise
from robust_eval.landscape.awp.points import Kind, Measured, Point
from robust_eval.landscape.awp.scan import Scan, Values
from robust_eval.landscape.checkpoints import Subject


class View(Protocol):
    """What is looked at."""

    @property
    def stem(self) -> str: ...
    @property
    def directions(self) -> int: ...
    @property
    def batch_size(self) -> int | None: ...
    def plan(self) -> list[Point]: ...
    def finish(self, scan: Scan, values: Values, folder: Path) -> list[Table]: ...


def view(
    *,
    plane: bool,
    perturbation: str | None,
    pre_generated: bool,
    span: str,
    points: int | None,
    gammas: str | None,
    directions: int | None,
) -> View:
    """What a user asked to see; a UserError for options that do not go together."""
    if plane and perturbation is not None:
        raise UserError("--plane and --perturbation are two figures: give one of them.")
    if pre_generated and (plane or perturbation is not None):
        raise UserError(
            "--pre-generated is drawn beside the 1-D curve: leave out --plane and --perturbation."
        )
    if gammas is not None and perturbation is None:
        raise UserError("--gammas belongs to --perturbation: add --perturbation awp,rwp.")
    if directions is not None and directions < (2 if plane else 1):
        raise UserError(f"--directions must be at least {2 if plane else 1} here, got {directions}.")
    if perturbation is not None:
        sizes = scan.gammas(weight_noise.GAMMAS if gammas is None else gammas)
        return Perturbations(weight_noise.kinds(perturbation), sizes, directions or weight_noise.DRAWS)
    if plane:
        return Planes(scan.grid(span, 11 if points is None else points), directions or 2)
    return Curves(scan.grid(span, 21 if points is None else points), directions or 3, pre_generated)


@dataclass(frozen=True)
class Curves:
    alphas: tuple[float, ...]
    directions: int
    pre_generated: bool
    stem: str = curve.KIND
    batch_size: int | None = None

    def plan(self) -> list[Point]:
        return curve.plan(self.alphas, self.directions, pre_generated=self.pre_generated)

    def finish(self, scan: Scan, values: Values, folder: Path) -> list[Table]:
        found = curve.curves(scan, self.alphas, values)
        fixed = curve.curves(scan, self.alphas, values, "at-w") if self.pre_generated else []
        data = curve.to_data(scan, found, fixed, values)
        figure_style.save(figures.curve_figure(scan, found, fixed), folder / self.stem, data)
        tables = [_flatness_table(found, "Flatness of g(α)")]
        if fixed:
            tables.append(_flatness_table(fixed, "The same with pre-generated images, which misleads"))
        return tables


@dataclass(frozen=True)
class Planes:
    alphas: tuple[float, ...]
    directions: int
    stem: str = plane.KIND
    batch_size: int | None = None

    def plan(self) -> list[Point]:
        return plane.plan(self.alphas)

    def finish(self, scan: Scan, values: Values, folder: Path) -> list[Table]:
        found = plane.planes(scan, self.alphas, values)
        figure_style.save(
            figures.plane_figure(scan, found), folder / self.stem, plane.to_data(scan, found, values)
        )
        table = _table("Flatness over the plane", "checkpoint", "g(0, 0)", "mean |g - g(0, 0)|", "not finite")
        for one in found:
            table.add_row(one.label, f"{one.at_w:.4f}", _number(one.sharpness), str(len(one.not_finite())))
        return [table]


@dataclass(frozen=True)
class Perturbations:
    kinds: tuple[Kind, ...]
    gammas: tuple[float, ...]
    directions: int
    stem: str = weight_noise.KIND
    batch_size: int | None = weight_noise.BATCH

    def plan(self) -> list[Point]:
        return weight_noise.plan(self.kinds, self.gammas, self.directions)

    def finish(self, scan: Scan, values: Values, folder: Path) -> list[Table]:
        found = weight_noise.responses(scan, self.kinds, self.gammas, values)
        data = weight_noise.to_data(scan, found, values)
        figure_style.save(figures.response_figure(scan, found), folder / self.stem, data)
        heads = [f"{one.label} {one.kind.upper()}, {one.images}" for one in found]
        table = _table("Adversarial loss (nats) at w+v; images made at w, or anew at w+v", "gamma", *heads)
        for place, gamma in enumerate(self.gammas):
            table.add_row(f"{gamma:g}", *(_number(float(one.mean[place])) for one in found))
        return [table]


def _flatness_table(found: Sequence[curve.Curve], title: str) -> Table:
    table = _table(
        title,
        *("checkpoint", "g(0)", "robust at 0", "sharpness", "reach", "not finite"),
    )
    for one in found:
        flat = one.flatness()
        spread = "" if flat.sharpness_std is None else f" ± {flat.sharpness_std:.4f}"
        reach = "beyond" if flat.reach is None else f"{flat.reach:.3g} ({flat.reached}/{len(one.losses)})"
        table.add_row(
            one.label,
            f"{one.at_w:.4f}",
            f"{100 * one.accuracies[0, len(one.alphas) // 2]:.2f}%",
            f"{_number(flat.sharpness)}{spread}",
            reach,
            str(len(one.not_finite())),
        )
    table.caption = "sharpness: mean |g(α) - g(0)| in nats; reach: |α| at which g has risen by 1 nat"
    return table


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left", pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    return table


def _number(value: float | None) -> str:
    return "not finite" if value is None or value != value else f"{value:.4f}"


class Ticker:
    """Counts points: a bar on a terminal, a line every half minute elsewhere."""

    EVERY = 30.0

    def __init__(self, total: int, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("points", total=total)
        self._total, self._done, self._console, self._last = total, 0, console, time.monotonic()

    def told(self, subject: Subject, measured: Measured, stored: bool) -> None:
        """Another point is known."""
        self._done += 1
        self._bar.update(self._task, advance=1, description=subject.label)
        now = time.monotonic()
        if not self._console.is_terminal and not stored and now - self._last > self.EVERY:
            self._last = now
            self._console.print(f"{self._done}/{self._total} points, the last took {measured.seconds:.1f} s")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
