"""The adversarial loss along the straight line between two checkpoints.

Liu et al. 2020 study whether minima of adversarial training are connected like those of standard training.
Adversarial images are made anew at every point. The barrier is the largest rise of the loss above the line
between its values at the ends (Frankle et al. 2020). Networks trained with different seeds have their units
in different orders, so a barrier between them does not exclude a connecting curve.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from robust_eval.core import figure_style
from robust_eval.core.errors import UserError
from robust_eval.evaluation.store import lock_run_folder
from robust_eval.landscape.checkpoints import ComparedModel
from robust_eval.landscape.liu.measurement import Measurement, PartialResults, batches, partial_name
from robust_eval.landscape.option_checks import require_at_least
from robust_eval.models.loading.state_dict_diff import shapes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND, VERSION = "connectivity", 1


@dataclass(frozen=True)
class InterpolationPoint:
    """The model (1-t) A + t B: adversarial loss in nats, accuracies as fractions.

    ``robust``: accuracy on the adversarial images; ``clean``: on the clean images.
    """

    t: float
    loss: float | None
    """None if not finite."""
    robust: float
    clean: float


class InterpolatedModel:
    """A copy of network A whose state is set to (1-t) A + t B; A and B are not modified.

    All floating-point entries of the state are interpolated. Interpolated running statistics of BatchNorm do
    not fit the interpolated weights: with ``recompute`` they are computed from the clean images at every
    point, including the ends.
    """

    def __init__(
        self, a: ComparedModel, b: ComparedModel, x_NCHW: Tensor, *, recompute: bool, batch_size: int
    ) -> None:
        self.model = copy.deepcopy(a.model).eval().requires_grad_(False)
        self._state_a, self._state_b = a.model.network.state_dict(), b.model.network.state_dict()
        self._state = self.model.network.state_dict()
        self._x, self._batch_size = x_NCHW, batch_size
        self._batchnorms = (
            [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
            if recompute
            else []
        )

    @torch.no_grad()
    def set_position(self, t: float) -> None:
        """Set the copy to (1-t) A + t B; exactly A at 0 and B at 1."""
        for key, value in self._state.items():
            if value.is_floating_point():
                value.copy_(torch.lerp(self._state_a[key], self._state_b[key], t))
        if self._batchnorms:
            self._recompute_running_statistics()

    def _recompute_running_statistics(self) -> None:
        """Average of the batch statistics on the clean images in train mode, weighted by batch size."""
        momenta = [norm.momentum for norm in self._batchnorms]
        for norm in self._batchnorms:
            norm.reset_running_stats()
            norm.train()
        seen = 0
        for batch in batches(self._x, self._batch_size):
            seen += len(batch)
            for norm in self._batchnorms:
                norm.momentum = len(batch) / seen
            self.model(batch)
        for norm, momentum in zip(self._batchnorms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def parse_points(count: int) -> tuple[float, ...]:
    """``count`` equidistant values of t from 0 to 1; raises :class:`UserError` for fewer than 3."""
    require_at_least("--points", count, 3)
    return tuple(index / (count - 1) for index in range(count))


def measure(
    measurement: Measurement,
    ts: Sequence[float],
    folder: Path,
    *,
    recompute: bool,
    on_result: Callable[[InterpolationPoint], None] = lambda _point: None,
) -> list[InterpolationPoint]:
    """Loss and accuracies between the two checkpoints at every t; finished points are read from ``folder``.

    Raises :class:`UserError` if the checkpoints cannot be interpolated or the folder belongs to another
    measurement.
    """
    a, b = measurement.comparison.models
    if a.ref.normalisation != b.ref.normalisation:
        raise UserError(
            f"{a.label} and {b.label} normalise their input differently ({a.ref.normalisation.name}, "
            f"{b.ref.normalisation.name}) and cannot be interpolated: give checkpoints with the same one."
        )
    shapes = [shapes_of(one.model.network.state_dict()) for one in (a, b)]
    if a.ref.architecture != b.ref.architecture or shapes[0] != shapes[1]:
        raise UserError(
            f"{a.label} and {b.label} differ in their architecture or its arguments and cannot be "
            "interpolated: give checkpoints of one architecture with the same arguments."
        )
    comparison = measurement.comparison
    model = InterpolatedModel(a, b, comparison.x_NCHW, recompute=recompute, batch_size=measurement.batch_size)
    points = []
    with lock_run_folder(folder):
        batch_norm = {"batch_norm": "recompute" if recompute else "interpolate"}
        comparison.open_folder(folder, measurement.identity() | batch_norm)
        stored = PartialResults(folder)
        for t in ts:
            measure_point = partial(_measure_at, measurement, model, t)
            point = stored.get_or_measure(partial_name(t=t), InterpolationPoint, measure_point)
            points.append(point)
            on_result(point)
    return points


def _measure_at(measurement: Measurement, interpolated: InterpolatedModel, t: float) -> InterpolationPoint:
    interpolated.set_position(t)
    model = interpolated.model
    x, y = measurement.comparison.x_NCHW, measurement.comparison.y_N
    x_adv = measurement.adversarial_images(measurement.attack_copy(model))
    loss, robust, clean = 0.0, 0, 0
    with torch.no_grad():
        for images, adversarial, labels in zip(
            *(batches(each, measurement.batch_size) for each in (x, x_adv, y)), strict=True
        ):
            logits = model(adversarial)
            loss += float(cross_entropy(logits, labels, reduction="none").double().sum())
            robust += int((logits.argmax(1) == labels).sum())
            clean += int((model(images).argmax(1) == labels).sum())
    mean = loss / len(y)
    return InterpolationPoint(t, mean if isfinite(mean) else None, robust / len(y), clean / len(y))


def barrier(points: Sequence[InterpolationPoint]) -> float | None:
    """max over t of g(t) - ((1-t) g(0) + t g(1)), in nats; at least 0; None if g is not finite somewhere."""
    losses = [one.loss for one in points if one.loss is not None]
    if len(losses) < len(points):
        return None
    first, last = losses[0], losses[-1]
    rises = [loss - ((1 - one.t) * first + one.t * last) for one, loss in zip(points, losses, strict=True)]
    return max(rises)


def distance(a: ComparedModel, b: ComparedModel) -> float:
    """L2 distance of the parameters, without running statistics (as in the code of Liu et al.)."""
    other = dict(b.model.network.named_parameters())
    squares = [
        (p - other[key]).detach().double().pow(2).sum() for key, p in a.model.network.named_parameters()
    ]
    return float(torch.stack(squares).sum().sqrt())


def connectivity_figure(points: Sequence[InterpolationPoint], measurement: Measurement) -> Figure:
    """Loss, with the line between the ends, and accuracies against t."""
    a, b = (one.label for one in measurement.comparison.models)
    with figure_style.style():
        canvas, axes = figure_style.panels(2, width=figure_style.TWO_COLUMNS, height=2.5)
        ts = [one.t for one in points]
        axes[0].plot(
            ts, [float("nan") if one.loss is None else one.loss for one in points], **figure_style.line(0)
        )
        if points[0].loss is not None and points[-1].loss is not None:
            ends = [points[0].loss, points[-1].loss]
            axes[0].plot([0, 1], ends, color=figure_style.GREY, linewidth=0.8, linestyle=":")
        axes[0].set_ylabel("adversarial loss (nats)")
        axes[1].plot(ts, [100 * one.robust for one in points], **figure_style.line(0), label="under attack")
        axes[1].plot(ts, [100 * one.clean for one in points], **figure_style.line(1), label="clean")
        axes[1].set_ylabel("accuracy (%)")
        axes[1].legend()
        for axis in axes:
            axis.set_xlabel(f"t: from {a} (0) to {b} (1)")
        canvas.suptitle(measurement.caption(), fontsize=8)
    return canvas


def to_data(
    points: Sequence[InterpolationPoint], measurement: Measurement, *, recompute: bool
) -> dict[str, Any]:
    """The content of the JSON file."""
    a, b = measurement.comparison.models
    statistics = "recomputed on the clean images at every point" if recompute else "interpolated"
    return {
        **measurement.record(),
        "line": "(1-t) A + t B over all floating-point entries of the state",
        "running_statistics": statistics if has_batchnorm(a.model) else "the network has none",
        "checkpoints": [one.record() for one in measurement.comparison.models],
        "parameter_distance": distance(a, b),
        "barrier_nats": barrier(points),
        "points": [asdict(one) for one in points],
    }
