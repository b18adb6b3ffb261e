"""The linear experiment on two classes of real images: sweep the budget through the predicted threshold."""

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
from robust_eval.landscape.liu.linear_classifier import Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "linear-experiment"


@dataclass(frozen=True)
class Experiment:
    """Two balanced classes as points of the plane of pixels, and where theory puts the threshold."""

    images: Slice
    classes: tuple[str, str]
    """Labelled -1 and 1."""
    x_ND: Tensor
    y_N: Tensor
    norm: Norm
    threshold: float
    all_classes: float | None
    """The threshold of softmax regression over all classes of the data; Linf alone."""


def prepare(images: ImageSet, classes: str | None, norm: Norm, per_class: int) -> Experiment:
    """The first ``per_class`` images of each of two classes (as many where there are fewer).

    ``classes``: two names, separated by a comma; the first two of the data by default. A UserError for
    names that are none.
    """
    names = [name.strip() for name in classes.split(",")] if classes else list(images.class_names[:2])
    if len(names) != 2 or names[0] == names[1]:
        raise UserError(f"--classes needs two different classes, such as 3,8; got '{classes}'.")
    if per_class < 1:
        raise UserError(f"--examples must be at least 1, got {per_class}.")
    for name in names:
        if name not in images.class_names:
            raise unknown("class", name, images.class_names)
    x_NCHW, labels_N = images.tensors()
    x_ND = x_NCHW.flatten(1).double()
    chosen = [(labels_N == images.class_names.index(name)).nonzero()[:, 0][:per_class] for name in names]
    least = min(len(each) for each in chosen)
    if not least:
        raise UserError(f"{images.name} has no images of one of the classes {' and '.join(names)}.")
    x = torch.cat([x_ND[each[:least]] for each in chosen])
    y = torch.cat([torch.full((least,), sign, dtype=torch.float64) for sign in (-1, 1)])
    over_all = linear_classifier.critical_eps_softmax(x_ND, labels_N) if norm == "Linf" else None
    return Experiment(
        images.slice(), (names[0], names[1]), x, y, norm, linear_classifier.critical_eps(x, y, norm), over_all
    )


def budgets(threshold: float, span: Fraction, count: int) -> list[float]:
    """``count`` budgets from 0 to ``span`` times the threshold."""
    if span <= 1:
        raise UserError(f"--span must be above 1, so that the threshold is crossed; got {float(span):g}.")
    if count < 3:
        raise UserError(f"--points must be at least 3, got {count}.")
    return [threshold * float(span) * place / (count - 1) for place in range(count)]


def vanished(found: Sequence[Point]) -> float | None:
    """The smallest budget measured from which on training always ends at w = 0."""
    last = [one.eps for one in found if one.weight_norm > 0]
    after = [one.eps for one in found if not last or one.eps > max(last)]
    return min(after) if after else None


def draw(made: Experiment, found: Sequence[Point]) -> Figure:
    eps = [one.eps for one in found]
    with figure_style.style():
        canvas, axes = figure_style.panels(3, width=figure_style.TWO_COLUMNS, height=2.4)
        dual = "1" if made.norm == "Linf" else "2"
        axes[0].plot(eps, [one.weight_norm for one in found], **figure_style.line(0))
        axes[0].set_yscale("symlog", linthresh=1e-2)
        axes[0].set_ylabel(f"size of the trained w (L{dual} norm)")
        axes[1].plot(eps, [one.loss for one in found], **figure_style.line(0))
        axes[1].axhline(
            math.log(2), color=figure_style.GREY, linewidth=0.8, linestyle="--", label="constant: log 2"
        )
        axes[1].set_ylabel("adversarial loss (nats)")
        axes[1].legend()
        axes[2].plot(eps, [100 * one.robust_error for one in found], **figure_style.line(1), label="robust")
        axes[2].plot(eps, [100 * one.clean_error for one in found], **figure_style.line(0), label="clean")
        axes[2].set_ylabel("error (%)")
        axes[2].legend()
        images = f"{made.images.name} ({made.images.split}, n = {len(made.y_N)})"
        canvas.suptitle(f"{images}, {' against '.join(made.classes)}", fontsize=8)
        for axis in axes:
            axis.axvline(made.threshold, color=figure_style.GREY, linewidth=0.9, linestyle=":")
            axis.set_xlabel(f"{made.norm} budget ε (pixels in [0, 1])")
    return canvas


def to_data(made: Experiment, found: Sequence[Point], steps: int, seed: int) -> dict[str, Any]:
    """Everything the figure shows and how it was made."""
    return {
        "kind": KIND,
        "data": asdict(made.images),
        "classes": made.classes,
        "images": len(made.y_N),
        "norm": made.norm,
        "model": "linear, no bias, no box; logistic loss in nats, its worst case in closed form",
        "training": f"{steps} proximal gradient steps from a small random w, seed {seed}",
        "predicted_threshold": made.threshold,
        "predicted_threshold_softmax_all_classes": made.all_classes,
        "first_budget_with_w_zero": vanished(found),
        "points": [asdict(one) for one in found],
    }
