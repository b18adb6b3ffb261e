"""Gradient scattering: similarity of perturbations and parameter gradients between neighbouring weights.

Liu et al. 2020 argue that with larger epsilon the adversarial images of neighbouring weights become less
similar, so that the parameter gradients of adversarial training change abruptly ("gradient scattering").
Their released code compares the perturbations found at several points near one checkpoint; the parameter
gradients are compared here too.

For each epsilon, the points are w and w + r d_i for random filter-normalised directions d_i, the same for all
checkpoints and all epsilon. At each point PGD makes adversarial images from the same random starts. Cosines
are means over all pairs of points.
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
from robust_eval.evaluation.store import lock_run_folder
from robust_eval.landscape.checkpoints import ComparedModel
from robust_eval.landscape.directions import Directions, filter_normalised, random_directions
from robust_eval.landscape.displaced_model import DisplacedModel, ScaledDirection
from robust_eval.landscape.liu.measurement import SAMPLE, Measurement, PartialResults, batches, partial_name
from robust_eval.landscape.option_checks import require_at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND, VERSION = "scattering", 1
GRADIENT_BATCH = 128


@dataclass(frozen=True)
class GradientSimilarity:
    """Mean cosines of one checkpoint at one epsilon, in [-1, 1]. The field names are those of the JSON."""

    label: str
    ratio: str
    """Epsilon in units of the threat model's epsilon, as an exact fraction."""
    eps: float
    perturbation: float | None
    """Of x' - x, mean over images and pairs of points; None for eps = 0."""
    perturbation_sign: float | None
    """Of the signs of x' - x; None for eps = 0."""
    gradient: float
    """Of the gradient of the mean loss over all images."""
    batch_gradient: float
    """Of the gradients of single batches of 128, mean over batches and pairs."""
    batch_gradient_at_w: float
    """As ``batch_gradient``, with all gradients taken at w: the effect of different images alone."""


def parse_ratios(text: str) -> tuple[Fraction, ...]:
    """Values of epsilon relative to the threat model's, in increasing order without duplicates."""
    ratios = sorted({parse_fraction(part, "--epsilons") for part in text.split(",")})
    if ratios[0] < 0:
        raise UserError(f"--epsilons must be 0 or more, got '{text}'.")
    return tuple(ratios)


def _refuse_beyond_box(threat: ThreatModel, ratios: Sequence[Fraction]) -> None:
    """Raise a :class:`UserError` for an Linf epsilon above the pixel range [0, 1]."""
    for ratio in ratios:
        if threat.norm == "Linf" and threat.eps * ratio > 1:
            raise UserError(
                f"--epsilons {format_fraction(ratio)} times epsilon {threat.eps_text} is more than the "
                f"range of pixels, [0, 1]: use at most {format_fraction(1 / threat.eps)}."
            )


def parse_radius(text: str) -> float:
    """Distance of the neighbours, relative to the norm of each filter."""
    value = parse_fraction(text, "--radius")
    if not 0 < value <= 1:
        raise UserError(f"--radius must be above 0 and at most 1 (of each filter's norm), got {text}.")
    return float(value)


def measure(
    measurement: Measurement,
    ratios: Sequence[Fraction],
    radius: float,
    neighbours: int,
    folder: Path,
    on_result: Callable[[GradientSimilarity], None] = lambda _similarity: None,
) -> list[GradientSimilarity]:
    """Every checkpoint at every epsilon; finished results are read from ``folder``.

    Raises :class:`UserError` for an epsilon above the pixel range and a folder of another measurement.
    """
    require_at_least("--neighbours", neighbours)
    comparison = measurement.comparison
    _refuse_beyond_box(comparison.threat, ratios)
    similarities = []
    with lock_run_folder(folder):
        options = {"radius": radius, "neighbours": neighbours}
        comparison.open_folder(folder, measurement.identity() | options)
        stored = PartialResults(folder)
        directions = random_directions(comparison.shapes, neighbours, measurement.seed)
        for model in comparison.models:
            neighbourhood = _Neighbourhood(measurement, model, directions, radius)
            for ratio in ratios:
                name = partial_name(**model.ref.weights, ratio=str(ratio))
                similarity = stored.get_or_measure(
                    name, GradientSimilarity, partial(neighbourhood.measure, ratio)
                )
                similarity = replace(similarity, label=model.label)
                similarities.append(similarity)
                on_result(similarity)
    return similarities


class _Neighbourhood:
    """One checkpoint's weights w and its neighbours."""

    def __init__(
        self, measurement: Measurement, model: ComparedModel, directions: Directions, radius: float
    ) -> None:
        self.measurement, self.label = measurement, model.label
        self.displaced = DisplacedModel(model.model, model.ref.name, measurement.comparison.x_NCHW[:SAMPLE])
        self.points: list[list[ScaledDirection]] = [[]]
        for number in range(directions.count):
            direction = filter_normalised(directions.raw(number), self.displaced.weights)
            self.points.append([(direction, radius)])

    def measure(self, ratio: Fraction) -> GradientSimilarity:
        """All cosines at ``ratio`` times the threat model's epsilon."""
        comparison, displaced = self.measurement.comparison, self.displaced
        threat = ThreatModel(comparison.threat.norm, comparison.threat.eps * ratio)
        attack = partial(self.measurement.adversarial_images, threat=threat)
        perturbations: list[Tensor] = []
        gradients: list[list[Tensor]] = []
        images: list[Tensor] = []
        for point in self.points:
            displaced.displace(point)
            x_adv = displaced.attack(attack) if ratio else comparison.x_NCHW
            perturbations.append((x_adv - comparison.x_NCHW).flatten(1))
            gradients.append(self._batch_gradients(x_adv))
            images.append(x_adv)
        displaced.displace()
        gradients_at_w = [self._batch_gradients(x_adv) for x_adv in images]
        n = len(comparison.y_N)
        fractions = [len(batch) / n for batch in batches(comparison.y_N, GRADIENT_BATCH)]
        mean_gradients = [
            torch.stack([fraction * g for fraction, g in zip(fractions, each, strict=True)]).sum(0)
            for each in gradients
        ]
        return GradientSimilarity(
            self.label,
            str(ratio),
            threat.radius,
            _mean_cosine(perturbations) if ratio else None,
            _mean_cosine([one.sign() for one in perturbations]) if ratio else None,
            _mean([_cosine(one, other) for one, other in combinations(mean_gradients, 2)]),
            _mean_batch_cosine(gradients),
            _mean_batch_cosine(gradients_at_w),
        )

    def _batch_gradients(self, x_adv_NCHW: Tensor) -> list[Tensor]:
        """Flat parameter gradients of each batch's mean loss at the current weights."""
        y_N = self.measurement.comparison.y_N
        return [
            torch.cat([part.flatten() for part in self.displaced.weight_gradient(x, y).values()])
            for x, y in zip(batches(x_adv_NCHW, GRADIENT_BATCH), batches(y_N, GRADIENT_BATCH), strict=True)
        ]


def _mean_cosine(perturbations: Sequence[Tensor]) -> float:
    """Mean cosine over images and pairs of points; 0 for an image that one point did not perturb."""
    pairs = combinations(perturbations, 2)
    return _mean([float(torch.cosine_similarity(a.double(), b.double()).mean()) for a, b in pairs])


def _mean_batch_cosine(gradients: Sequence[Sequence[Tensor]]) -> float:
    """Mean cosine over batches and pairs of points of ``gradients[point][batch]``."""
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


def scattering_figure(similarities: Sequence[GradientSimilarity], measurement: Measurement) -> Figure:
    """Cosines of perturbations and of parameter gradients against epsilon."""
    threat = measurement.comparison.threat
    heads = ("of perturbations", "of gradients at w,\non each point's images", "of gradients\nat each point")
    with figure_style.style():
        canvas, axes = figure_style.panels(3, width=figure_style.TWO_COLUMNS, height=2.5)
        for index, label in enumerate(dict.fromkeys(one.label for one in similarities)):
            own = [one for one in similarities if one.label == label]
            series = (
                [(one.eps, one.perturbation) for one in own if one.perturbation is not None],
                [(one.eps, one.batch_gradient_at_w) for one in own],
                [(one.eps, one.batch_gradient) for one in own],
            )
            for axis, pairs in zip(axes, series, strict=True):
                axis.plot(
                    [eps for eps, _ in pairs],
                    [cosine for _, cosine in pairs],
                    **figure_style.line(index),
                    label=label,
                )
        max_eps = max([threat.radius, *(one.eps for one in similarities)])
        for axis, head in zip(axes, heads, strict=True):
            # One range for all panels, although the first has no value at eps = 0.
            axis.set_xlim(-0.04 * max_eps, 1.04 * max_eps)
            axis.locator_params(axis="x", nbins=5)
            axis.axvline(threat.radius, color=figure_style.GREY, linewidth=0.8, linestyle=":")
            axis.set_xlabel(f"{threat.norm} ε (pixels in [0, 1])")
            axis.set_ylabel(f"mean cosine {head}")
        figure_style.legend(canvas, axes[0])
        canvas.suptitle(measurement.caption(), fontsize=8)
    return canvas


def to_data(
    similarities: Sequence[GradientSimilarity], measurement: Measurement, radius: float, neighbours: int
) -> dict[str, Any]:
    """The content of the JSON file."""
    return {
        **measurement.record(),
        "points": f"w and {neighbours} neighbours along filter-normalised directions of relative size "
        f"{format_fraction(Fraction(str(radius)))}; means over all pairs",
        "gradient_batch": GRADIENT_BATCH,
        "checkpoints": [one.record() for one in measurement.comparison.models],
        "scatter": [asdict(one) for one in similarities],
    }
