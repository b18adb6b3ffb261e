"""Gradient scattering: do nearby weights see the same perturbations, and the same gradients?

Liu et al. 2020 argue that a larger budget lets the adversarial images of neighbouring parameters part, so
that parameter gradients of adversarial training change abruptly: they scatter. Their released code compares
the perturbations found at several points near one checkpoint; here the parameter gradients are compared too.

For each budget, the points are w and w + r d_i for random filter-normalised directions d_i, the same for all
checkpoints and budgets. At each point PGD makes its own images from the same starts. Cosines are means over
all pairs of points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robust_eval.core import figure_style
from robust_eval.core.errors import UserError
from robust_eval.core.threat import ThreatModel, format_fraction, parse_fraction
from robust_eval.evaluation.store import exclusive
from robust_eval.landscape import directions
from robust_eval.landscape.checkpoints import Subject
from robust_eval.landscape.directions import Vector, filter_normalised
from robust_eval.landscape.displaced_model import Moving
from robust_eval.landscape.liu import measurement
from robust_eval.landscape.liu.measurement import Pieces, Setup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND, VERSION = "scattering", 1
RATIOS = "0,1/4,1/2,3/4,1,3/2,2"
RADIUS = "0.05"
GRADIENT_BATCH = 128


@dataclass(frozen=True)
class Scatter:
    """One checkpoint at one budget. Cosines lie in [-1, 1]; None where there is no perturbation (eps = 0)."""

    label: str
    ratio: str
    """The budget in units of the threat model's, exact."""
    eps: float
    perturbation: float | None
    """Of x' - x, mean over images and pairs of points."""
    perturbation_sign: float | None
    """Of its signs."""
    gradient: float
    """Of the gradient of the mean loss over the whole slice."""
    batch_gradient: float
    """Of the gradients of single batches of 128, mean over batches and pairs."""
    batch_gradient_at_w: float
    """The same with every gradient taken at w, on the images of each point: what their parting alone does."""


def ratios(text: str) -> tuple[Fraction, ...]:
    """Budgets relative to the threat model's, in growing order, each once."""
    found = sorted({parse_fraction(part, "--budgets") for part in text.split(",")})
    if found[0] < 0:
        raise UserError(f"--budgets must be 0 or more, got '{text}'.")
    return tuple(found)


def _allowed(threat: ThreatModel, budgets: Sequence[Fraction]) -> None:
    """Refuse budgets that no image in [0, 1] can use."""
    for ratio in budgets:
        if threat.norm == "Linf" and threat.eps * ratio > 1:
            raise UserError(
                f"--budgets {format_fraction(ratio)} times epsilon {threat.eps_text} is more than the "
                f"range of pixels, [0, 1]: ask for at most {format_fraction(1 / threat.eps)}."
            )


def radius(text: str) -> float:
    """How far the neighbours are, relative to the norm of each filter."""
    value = parse_fraction(text, "--radius")
    if not 0 < value <= 1:
        raise UserError(f"--radius must be above 0 and at most 1 (of each filter's norm), got {text}.")
    return float(value)


def measure(
    made: Setup,
    budgets: Sequence[Fraction],
    distance: float,
    neighbours: int,
    folder: Path,
    told: Callable[[Scatter], None] = lambda _scatter: None,
) -> list[Scatter]:
    """Every checkpoint at every budget, finished ones from ``folder``; resumable budget by budget."""
    measurement.checked_count("--neighbours", neighbours)
    _allowed(made.subjects.threat, budgets)
    how = {"radius": distance, "neighbours": neighbours}
    found = []
    with exclusive(folder):
        made.subjects.open(folder, made.identity() | how)
        pieces = Pieces(folder)
        drawn = directions.draw(made.subjects.shapes, neighbours, made.seed)
        for subject in made.subjects.each:
            meter = _Meter(made, subject, drawn, distance)
            for ratio in budgets:
                name = measurement.name(**subject.ref.weights, ratio=str(ratio))
                scatter = pieces.once(name, Scatter, partial(meter.at, ratio))
                scatter = replace(scatter, label=subject.label)
                found.append(scatter)
                told(scatter)
    return found


class _Meter:
    """One checkpoint and its neighbours."""

    def __init__(self, made: Setup, subject: Subject, drawn: directions.Directions, distance: float) -> None:
        self.made, self.label = made, subject.label
        self.moving = Moving(subject.model, subject.ref.name, made.subjects.x_NCHW[: measurement.SAMPLE])
        self.places: list[list[tuple[Vector, float]]] = [[]]
        for number in range(drawn.count):
            scaled = filter_normalised(drawn.raw(number), self.moving.home)
            self.places.append([(scaled, distance)])

    def at(self, ratio: Fraction) -> Scatter:
        subjects = self.made.subjects
        threat = ThreatModel(subjects.threat.norm, subjects.threat.eps * ratio)
        deltas: list[Tensor] = []
        gradients: list[list[Tensor]] = []
        shown: list[Tensor] = []
        for steps in self.places:
            self.moving.place(steps)
            adv = (
                self.moving.attacked(partial(self.made.attacked, threat=threat)) if ratio else subjects.x_NCHW
            )
            deltas.append((adv - subjects.x_NCHW).flatten(1))
            gradients.append(self._gradients(adv))
            shown.append(adv)
        self.moving.place()
        at_w = [self._gradients(adv) for adv in shown]
        n = len(subjects.y_N)
        shares = [len(part) / n for part in measurement.parts(subjects.y_N, GRADIENT_BATCH)]
        whole = [
            torch.stack([share * g for share, g in zip(shares, each, strict=True)]).sum(0)
            for each in gradients
        ]
        return Scatter(
            self.label,
            str(ratio),
            threat.radius,
            _mean_cosine(deltas) if ratio else None,
            _mean_cosine([delta.sign() for delta in deltas]) if ratio else None,
            _mean([_cosine(one, other) for one, other in combinations(whole, 2)]),
            _by_batch(gradients),
            _by_batch(at_w),
        )

    def _gradients(self, adv_NCHW: Tensor) -> list[Tensor]:
        """Of each batch's mean loss where the weights stand, flat."""
        labels = self.made.subjects.y_N
        return [
            torch.cat([part.flatten() for part in self.moving.gradient(x, y).values()])
            for x, y in zip(
                measurement.parts(adv_NCHW, GRADIENT_BATCH),
                measurement.parts(labels, GRADIENT_BATCH),
                strict=True,
            )
        ]


def _mean_cosine(deltas: Sequence[Tensor]) -> float:
    """Per image, then over images and pairs; an image that one of a pair left alone counts as 0."""
    pairs = combinations(deltas, 2)
    return _mean([float(torch.cosine_similarity(a.double(), b.double()).mean()) for a, b in pairs])


def _by_batch(gradients: Sequence[Sequence[Tensor]]) -> float:
    """``gradients[point][batch]``: cosines of the same batch at two points, over batches and pairs."""
    return _mean(
        [
            _mean([_cosine(a, b) for a, b in zip(one, other, strict=True)])
            for one, other in combinations(gradients, 2)
        ]
    )


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.cosine_similarity(one.double(), other.double(), dim=0))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def draw(found: Sequence[Scatter], made: Setup) -> Figure:
    """Cosines of perturbations and of parameter gradients against the budget."""
    heads = ("of perturbations", "of gradients at w,\non each point's images", "of gradients\nat each point")
    with figure_style.style():
        canvas, axes = figure_style.panels(3, width=figure_style.TWO_COLUMNS, height=2.5)
        for place, label in enumerate(dict.fromkeys(one.label for one in found)):
            own = [one for one in found if one.label == label]
            series = (
                [(one.eps, one.perturbation) for one in own if one.perturbation is not None],
                [(one.eps, one.batch_gradient_at_w) for one in own],
                [(one.eps, one.batch_gradient) for one in own],
            )
            for axis, pairs in zip(axes, series, strict=True):
                axis.plot(
                    [eps for eps, _ in pairs],
                    [cosine for _, cosine in pairs],
                    **figure_style.line(place),
                    label=label,
                )
        farthest = max([made.subjects.threat.radius, *(one.eps for one in found)])
        for axis, head in zip(axes, heads, strict=True):
            # One range, though without a perturbation (eps = 0) the first panel has nothing to show.
            axis.set_xlim(-0.04 * farthest, 1.04 * farthest)
            axis.locator_params(axis="x", nbins=5)
            axis.axvline(made.subjects.threat.radius, color=figure_style.GREY, linewidth=0.8, linestyle=":")
            axis.set_xlabel(f"{made.subjects.threat.norm} budget ε (pixels in [0, 1])")
            axis.set_ylabel(f"mean cosine {head}")
        figure_style.legend(canvas, axes[0])
        canvas.suptitle(made.caption(), fontsize=8)
    return canvas


def to_data(found: Sequence[Scatter], made: Setup, distance: float, neighbours: int) -> dict[str, Any]:
    """Everything the figure shows and how it was made."""
    return {
        **made.record(),
        "points": f"w and {neighbours} neighbours along filter-normalised directions of relative size "
        f"{format_fraction(Fraction(str(distance)))}; means over all pairs",
        "gradient_batch": GRADIENT_BATCH,
        "checkpoints": [
            {"label": s.label, "name": s.ref.name, "sha256": s.ref.sha256} for s in made.subjects.each
        ],
        "scatter": [asdict(one) for one in found],
    }
