"""The adversarial loss along the straight line between two checkpoints.

Liu et al. 2020 ask whether minima of adversarial training are connected as those of ordinary training are.
Adversarial images are made anew at every point. The barrier is how far the loss rises above the line between
its ends (Frankle et al. 2020). Runs from different seeds have their units in different orders; a barrier
between them says little about curves that are not straight.
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
from robust_eval.evaluation.store import exclusive
from robust_eval.landscape.checkpoints import Subject
from robust_eval.landscape.liu.measurement import Pieces, Setup, name, parts
from robust_eval.models.loading.state_dict_diff import shapes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND, VERSION = "connectivity", 1
POINTS = 21


@dataclass(frozen=True)
class Between:
    """The model at (1-t) A + t B, by its adversarial loss in nats and its accuracies as fractions.

    ``robust``: right on the adversarial images, whatever it says of the clean ones.
    """

    t: float
    loss: float | None
    """None where it is not finite."""
    robust: float
    clean: float


class Line:
    """A copy of a network that walks from A to B; both stay as they are.

    Every floating-point entry of the state is interpolated. With BatchNorm, running statistics between two
    others fit no network: with ``recompute`` they are taken anew from the clean images at every point, the
    ends included.
    """

    def __init__(self, a: Subject, b: Subject, x_NCHW: Tensor, *, recompute: bool, batch: int) -> None:
        self.model = copy.deepcopy(a.model).eval().requires_grad_(False)
        self._from, self._to = a.model.network.state_dict(), b.model.network.state_dict()
        self._state = self.model.network.state_dict()
        self._x, self._batch = x_NCHW, batch
        self._norms = (
            [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
            if recompute
            else []
        )

    @torch.no_grad()
    def place(self, t: float) -> None:
        """Set the copy to (1-t) A + t B; exactly A at 0 and B at 1."""
        for key, value in self._state.items():
            if value.is_floating_point():
                value.copy_(torch.lerp(self._from[key], self._to[key], t))
        if self._norms:
            self._recompute()

    def _recompute(self) -> None:
        """Running statistics: those of the clean images' batches in train mode, each by its share."""
        momenta = [norm.momentum for norm in self._norms]
        for norm in self._norms:
            norm.reset_running_stats()
            norm.train()
        seen = 0
        for part in parts(self._x, self._batch):
            seen += len(part)
            for norm in self._norms:
                norm.momentum = len(part) / seen
            self.model(part)
        for norm, momentum in zip(self._norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


def has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def grid(count: int) -> tuple[float, ...]:
    if count < 3:
        raise UserError(f"--points must be at least 3, so that there is one between the ends; got {count}.")
    return tuple(place / (count - 1) for place in range(count))


def measure(
    made: Setup,
    ts: Sequence[float],
    folder: Path,
    *,
    recompute: bool,
    told: Callable[[Between], None] = lambda _between: None,
) -> list[Between]:
    """The first two checkpoints' line at every t, finished points from ``folder``."""
    a, b = made.subjects.each
    if a.ref.normalisation != b.ref.normalisation:
        raise UserError(
            f"{a.label} and {b.label} normalise their input differently ({a.ref.normalisation.name}, "
            f"{b.ref.normalisation.name}), so nothing lies between them: give checkpoints that agree."
        )
    shapes = [shapes_of(one.model.network.state_dict()) for one in (a, b)]
    if a.ref.architecture != b.ref.architecture or shapes[0] != shapes[1]:
        raise UserError(
            f"{a.label} and {b.label} are built differently, so nothing lies between them: give checkpoints "
            "of one architecture with the same arguments."
        )
    line = Line(a, b, made.subjects.x_NCHW, recompute=recompute, batch=made.batch_size)
    found = []
    with exclusive(folder):
        how = {"batch_norm": "recompute" if recompute else "interpolate"}
        made.subjects.open(folder, made.identity() | how)
        pieces = Pieces(folder)
        for t in ts:
            between = pieces.once(name(t=t), Between, partial(_at, made, line, t))
            found.append(between)
            told(between)
    return found


def _at(made: Setup, line: Line, t: float) -> Between:
    line.place(t)
    x, y, adv = made.subjects.x_NCHW, made.subjects.y_N, made.attacked(made.attack_copy(line.model))
    loss, robust, clean = 0.0, 0, 0
    with torch.no_grad():
        for images, shown, labels in zip(
            *(parts(each, made.batch_size) for each in (x, adv, y)), strict=True
        ):
            logits = line.model(shown)
            loss += float(cross_entropy(logits, labels, reduction="none").double().sum())
            robust += int((logits.argmax(1) == labels).sum())
            clean += int((line.model(images).argmax(1) == labels).sum())
    mean = loss / len(y)
    return Between(t, mean if isfinite(mean) else None, robust / len(y), clean / len(y))


def barrier(found: Sequence[Between]) -> float | None:
    """max over t of g(t) - ((1-t) g(0) + t g(1)), in nats; at least 0; None where g is not finite."""
    losses = [one.loss for one in found if one.loss is not None]
    if len(losses) < len(found):
        return None
    first, last = losses[0], losses[-1]
    rises = [loss - ((1 - one.t) * first + one.t * last) for one, loss in zip(found, losses, strict=True)]
    return max(rises)


def distance(a: Subject, b: Subject) -> float:
    """L2 distance of the parameters, running statistics left out (as in Liu et al.'s code)."""
    other = dict(b.model.network.named_parameters())
    squares = [
        (p - other[key]).detach().double().pow(2).sum() for key, p in a.model.network.named_parameters()
    ]
    return float(torch.stack(squares).sum().sqrt())


def draw(found: Sequence[Between], made: Setup) -> Figure:
    a, b = (subject.label for subject in made.subjects.each)
    with figure_style.style():
        canvas, axes = figure_style.panels(2, width=figure_style.TWO_COLUMNS, height=2.5)
        ts = [one.t for one in found]
        axes[0].plot(
            ts, [float("nan") if one.loss is None else one.loss for one in found], **figure_style.line(0)
        )
        if found[0].loss is not None and found[-1].loss is not None:
            ends = [found[0].loss, found[-1].loss]
            axes[0].plot([0, 1], ends, color=figure_style.GREY, linewidth=0.8, linestyle=":")
        axes[0].set_ylabel("adversarial loss (nats)")
        axes[1].plot(ts, [100 * one.robust for one in found], **figure_style.line(0), label="under attack")
        axes[1].plot(ts, [100 * one.clean for one in found], **figure_style.line(1), label="clean")
        axes[1].set_ylabel("accuracy (%)")
        axes[1].legend()
        for axis in axes:
            axis.set_xlabel(f"t: from {a} (0) to {b} (1)")
        canvas.suptitle(made.caption(), fontsize=8)
    return canvas


def to_data(found: Sequence[Between], made: Setup, *, recompute: bool) -> dict[str, Any]:
    """Everything the figure shows and how it was made."""
    a, b = made.subjects.each
    norms = "recomputed on the clean images at every point" if recompute else "interpolated"
    return {
        **made.record(),
        "line": "(1-t) A + t B over all floating-point entries of the state",
        "running_statistics": norms if has_batchnorm(a.model) else "the network has none",
        "checkpoints": [
            {"label": s.label, "name": s.ref.name, "sha256": s.ref.sha256} for s in made.subjects.each
        ],
        "parameter_distance": distance(a, b),
        "barrier_nats": barrier(found),
        "points": [asdict(one) for one in found],
    }
