"""The linear classifier on two classes of images, trained at epsilons below and above the critical one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from robust_eval.core import figure_style
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.threat import Norm
from robust_eval.core.types import Slice
from robust_eval.data import ImageSet
from robust_eval.landscape.liu import linear_classifier
from robust_eval.landscape.liu.linear_classifier import LinearClassifierResult
from robust_eval.landscape.option_checks import require_at_least

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "linear-experiment"


@dataclass(frozen=True)
class LinearExperiment:
    """Two balanced classes as flattened images, and the predicted critical epsilon."""

    data: Slice
    classes: tuple[str, str]
    """Names of the classes labelled -1 and 1."""
    x_ND: Tensor
    """float64 in [0, 1]."""
    y_N: Tensor
    norm: Norm
    threshold: float
    all_classes: float | None
    """The critical epsilon of softmax regression over all classes; None for norms other than Linf."""


def load_experiment(images: ImageSet, classes: str | None, norm: Norm, per_class: int) -> LinearExperiment:
    """At most ``per_class`` images of each of two classes, the same number of both.

    ``classes``: two names, separated by a comma (default: the first two of the data). Raises
    :class:`UserError` for unknown or equal names and for a class without images.
    """
    names = [name.strip() for name in classes.split(",")] if classes else list(images.class_names[:2])
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"--classes needs two different classes, such as 3,8; got '{classes}'.")
    require_at_least("--examples", per_class)
    for name in names:
        if name not in images.class_names:
            raise unknown("class", name, images.class_names)
    x_NCHW, labels_N = images.tensors()
    x_ND = x_NCHW.flatten(1).double()
    indices = [(labels_N == images.class_names.index(name)).nonzero()[:, 0][:per_class] for name in names]
    count = min(len(each) for each in indices)
    if not count:
        raise UserError(f"{images.name} has no images of one of the classes {' and '.join(names)}.")
    x = torch.cat([x_ND[each[:count]] for each in indices])
    y = torch.cat([torch.full((count,), sign, dtype=torch.float64) for sign in (-1, 1)])
    over_all = linear_classifier.critical_eps_softmax(x_ND, labels_N) if norm == "Linf" else None
    return LinearExperiment(
        images.slice(), (names[0], names[1]), x, y, norm, linear_classifier.critical_eps(x, y, norm), over_all
    )


def parse_epsilons(threshold: float, span: Fraction, count: int) -> list[float]:
    """``count`` equidistant epsilons from 0 to ``span`` times the threshold."""
    if span <= 1:
        raise UserError(f"--span must be above 1 to include the threshold; got {float(span):g}.")
    require_at_least("--points", count, 3)
    return [threshold * float(span) * index / (count - 1) for index in range(count)]


def first_vanishing_epsilon(results: Sequence[LinearClassifierResult]) -> float | None:
    """The smallest epsilon from which on all trained weights are 0; None if the last ones are not."""
    nonzero = [one.eps for one in results if one.weight_norm > 0]
    after = [one.eps for one in results if not nonzero or one.eps > max(nonzero)]
    return min(after) if after else None


def experiment_figure(experiment: LinearExperiment, results: Sequence[LinearClassifierResult]) -> Figure:
    """Weight norm, adversarial loss and errors against epsilon, with the predicted threshold."""
    eps = [one.eps for one in results]
    with figure_style.style():
        canvas, axes = figure_style.panels(3, width=figure_style.TWO_COLUMNS, height=2.4)
        dual = "1" if experiment.norm == "Linf" else "2"
        axes[0].plot(eps, [one.weight_norm for one in results], **figure_style.line(0))
        axes[0].set_yscale("symlog", linthresh=1e-2)
        axes[0].set_ylabel(f"size of the trained w (L{dual} norm)")
        axes[1].plot(eps, [one.loss for one in results], **figure_style.line(0))
        axes[1].axhline(
            math.log(2), color=figure_style.GREY, linewidth=0.8, linestyle="--", label="constant: log 2"
        )
        axes[1].set_ylabel("adversarial loss (nats)")
        axes[1].legend()
        axes[2].plot(eps, [100 * one.robust_error for one in results], **figure_style.line(1), label="robust")
        axes[2].plot(eps, [100 * one.clean_error for one in results], **figure_style.line(0), label="clean")
        axes[2].set_ylabel("error (%)")
        axes[2].legend()
        data = f"{experiment.data.name} ({experiment.data.split}, n = {len(experiment.y_N)})"
        canvas.suptitle(f"{data}, {' against '.join(experiment.classes)}", fontsize=8)
        for axis in axes:
            axis.axvline(experiment.threshold, color=figure_style.GREY, linewidth=0.9, linestyle=":")
            axis.set_xlabel(f"{experiment.norm} ε (pixels in [0, 1])")
    return canvas


def to_data(
    experiment: LinearExperiment, results: Sequence[LinearClassifierResult], steps: int, seed: int
) -> dict[str, Any]:
    """The content of the JSON file."""
    return {
        "kind": KIND,
        "data": asdict(experiment.data),
        "classes": experiment.classes,
        "images": len(experiment.y_N),
        "norm": experiment.norm,
        "model": "linear, no bias, no box; logistic loss in nats, its worst case in closed form",
        "training": f"{steps} proximal gradient steps from a small random w, seed {seed}",
        "predicted_threshold": experiment.threshold,
        "predicted_threshold_softmax_all_classes": experiment.all_classes,
        "first_budget_with_w_zero": first_vanishing_epsilon(results),
        "points": [asdict(one) for one in results],
    }
