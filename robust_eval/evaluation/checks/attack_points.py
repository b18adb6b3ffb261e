"""The points at which attacks use gradients, and the gradients there: in the ball and on the path of PGD."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_eval.core.norms import norm_per_image, project, scale_small_gradients
from robust_eval.core.threat import Norm, ThreatModel
from robust_eval.models import out_of_memory
from robust_eval.models.gradients import gradient_or_zero

Model = Callable[[Tensor], Tensor]
"""x_NCHW to logits_NK."""


@dataclass(frozen=True)
class Slopes:
    """The gradient of ``(logits * weights_NK).sum(1)`` at points, all of N images."""

    points_NCHW: Tensor
    weights_NK: Tensor
    gradient_NCHW: Tensor


Weigh = Callable[[Tensor, Tensor], Tensor]
"""From logits_NK and y_N to the weights of the logits in a loss, whose gradient attacks follow."""


def margin_weights(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Of the strongest other logit minus the label's."""
    other = logits_NK.scatter(1, y_N[:, None], float("-inf")).argmax(1)
    return torch.zeros_like(logits_NK).scatter(1, y_N[:, None], -1.0).scatter(1, other[:, None], 1.0)


def cross_entropy_weights(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """Softmax minus one-hot label: the gradient of cross-entropy, scaled so that the largest entry is 1."""
    weights = logits_NK.softmax(1).scatter_add(1, y_N[:, None], -torch.ones_like(logits_NK))
    return weights / weights.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)


def slopes(model: Model, points_NCHW: Tensor, y_N: Tensor, weigh: Weigh = margin_weights) -> Slopes | None:
    """The gradient of a weighted sum of the logits; None if the outputs carry no gradient."""
    leaf = points_NCHW.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        if not logits.requires_grad:
            return None
        weights = weigh(logits.detach(), y_N)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)
    return None if gradient is None else Slopes(points_NCHW.detach(), weights.detach(), gradient)


def path(
    model: Model, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, *, steps: int, seed: int
) -> list[Slopes]:
    """The slopes at a random start in the ball and after each step of PGD; empty without gradients.

    The steps are of 2 epsilon / ``steps``.
    """
    point, found = random_start(x_NCHW, threat, seed), []
    for _ in range(steps + 1):
        at = slopes(model, point, y_N)
        if at is None:
            return []
        found.append(at)
        step = 2 * threat.radius / steps * _direction(at.gradient_NCHW.nan_to_num(0, 0, 0), threat.norm)
        point = (x_NCHW + project(point + step - x_NCHW, threat.norm, threat.radius)).clamp(0, 1)
    return found


def random_start(x: Tensor, threat: ThreatModel, seed: int) -> Tensor:
    """Points of the ball off the 8-bit grid: uniform (Linf), or in a random direction (L2)."""
    generator = torch.Generator().manual_seed(seed)
    if threat.norm == "Linf":
        noise = 2 * torch.rand(x.shape, generator=generator).to(x) - 1
    else:
        noise = torch.randn(x.shape, generator=generator).to(x)
        lengths = torch.rand(len(x), generator=generator).to(x) / norm_per_image(noise, "L2")
        noise = noise * _per_image(lengths, x)
    return (x + threat.radius * noise).clamp(0, 1)


def _direction(gradient: Tensor, norm: Norm) -> Tensor:
    if norm == "Linf":
        return gradient.sign()
    scaled = scale_small_gradients(gradient)
    return scaled / _per_image(norm_per_image(scaled, "L2").clamp_min(1e-12), gradient)


def _per_image(values_N: Tensor, like_NCHW: Tensor) -> Tensor:
    return values_N.view(-1, *[1] * (like_NCHW.dim() - 1))


def in_batches(model: Model, places: Sequence[Slopes], filler_NCHW: Tensor, size: int) -> list[Tensor]:
    """The gradients at all places, computed in batches of ``size``, which are filled up with other images.

    Batches are halved if memory is short.
    """
    points = torch.cat([place.points_NCHW for place in places])
    weights = torch.cat([place.weights_NK for place in places])
    missing = -len(points) % size
    if missing:
        points = torch.cat([points, repeated(filler_NCHW, missing)])
        weights = torch.cat([weights, weights.new_zeros(missing, weights.shape[1])])
    gradients: list[Tensor] = []
    while sum(map(len, gradients)) < len(points):
        done = sum(map(len, gradients))
        found = _gradient(model, points[done : done + size], weights[done : done + size])
        if found is None:
            size = max(1, size // 2)
            out_of_memory.release_cache()
        else:
            gradients.append(found)
    return list(torch.cat(gradients).split([len(place.points_NCHW) for place in places] + [missing]))[:-1]


def repeated(images_NCHW: Tensor, size: int) -> Tensor:
    """The first ``size`` images, repeated from the beginning if there are fewer."""
    repeats = max(1, -(-size // len(images_NCHW)))
    return images_NCHW.repeat(repeats, *[1] * (images_NCHW.dim() - 1))[:size]


def _gradient(model: Model, points: Tensor, weights: Tensor) -> Tensor | None:
    """The gradient of ``(logits * weights).sum()``, 0 if there is none; None if memory ran out."""
    leaf = points.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            logits = model(leaf)
        return gradient_or_zero(leaf, logits, weights)
    except RuntimeError as error:
        if len(points) == 1 or not out_of_memory.is_out_of_memory(error):
            raise
    return None
