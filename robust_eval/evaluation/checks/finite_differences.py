"""Compare the gradients of a model with finite differences of its outputs, where attacks use them.

A model may return gradients of another function: masked, shifted or clipped ones, those without its
preprocessing, or right ones at clean images or in small batches only. Attacks follow them in vain. Points
are the images, random points of the ball, and points on the path of PGD. The function is ``z_k - z_y``, where
k is the strongest other class at the point: with another k at every query it would have kinks.

The cosine is estimated from the changes along random directions that the gradient promises and those that two
forward passes measure. Half of the directions change all pixels; large entries of the gradient dominate them.
The others leave out the pixels that hold half of the gradient's L1 norm: they detect gradients that are
right, or not zero, in few pixels only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_eval.core.norms import norm_per_image, project, scale_small_gradients
from robust_eval.core.threat import Norm, ThreatModel
from robust_eval.models import out_of_memory
from robust_eval.results.flags.figures import GradientCosines

Model = Callable[[Tensor], Tensor]

SIZES = (1e-4, 1e-5, 1e-3, 1e-2, 3e-2)
"""Sizes of the finite differences, for pixels in [0, 1]. The best agreement counts: small sizes are lost in
rounding if a model is flat or rounds its input, large ones in curvature if it is steep."""
AGREES = 0.98
"""Cosine above which no other size is tried."""
# The largest rounding error of a difference, relative to the logits.
_ROUNDING = 8 * torch.finfo(torch.float32).eps


def gradient_cosines(
    model: Model,
    x_NCHW: Tensor,
    y_N: Tensor,
    threat: ThreatModel,
    pool_NCHW: Tensor,
    unit: int,
    *,
    quick: bool = False,
    seed: int = 0,
) -> GradientCosines:
    """The cosines between gradients and finite differences at the images, in the ball and on the path of PGD.

    All gradients are also computed in batches of ``unit`` images, filled up with images of the pool.
    ``quick``: fewer steps, points and directions.
    """
    at_images = slopes(model, x_NCHW, y_N)
    steps = 2 if quick else 4
    on_path = path(model, x_NCHW, y_N, threat, steps=steps, seed=seed)
    if at_images is None or not on_path:
        return GradientCosines()
    places = [at_images, *on_path[::2]]
    in_units = in_batches(model, places, pool_NCHW, unit)
    found = [
        cosines(model, place, (place.gradient_NCHW, again), pairs=1 if quick else 2, seed=seed)
        for place, again in zip(places, in_units, strict=True)
    ]
    (images, _), (ball, _), *later = found
    return GradientCosines(
        images=images,
        ball=ball,
        path=min(cosine for cosine, _ in later),
        batch=min(cosine for _, cosine in found),
        batch_size=unit,
    )


@dataclass(frozen=True)
class Slopes:
    """The gradient of ``(logits * weights_NK).sum(1)`` at points, all of N images."""

    points_NCHW: Tensor
    weights_NK: Tensor
    gradient_NCHW: Tensor


def slopes(model: Model, points_NCHW: Tensor, y_N: Tensor) -> Slopes | None:
    """The gradient of the strongest other logit minus the label's; None if the outputs carry no gradient."""
    leaf = points_NCHW.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        if not logits.requires_grad:
            return None
        other = logits.detach().scatter(1, y_N[:, None], float("-inf")).argmax(1)
        weights = torch.zeros_like(logits).scatter(1, y_N[:, None], -1.0).scatter(1, other[:, None], 1.0)
        (gradient,) = torch.autograd.grad((logits * weights).sum(), leaf, allow_unused=True)
    return None if gradient is None else Slopes(points_NCHW.detach(), weights.detach(), gradient)


def path(
    model: Model, x_NCHW: Tensor, y_N: Tensor, threat: ThreatModel, *, steps: int, seed: int
) -> list[Slopes]:
    """The slopes at a random start in the ball and after each step of PGD; empty without gradients.

    The steps are of 2 epsilon / ``steps``.
    """
    point, found = _random_start(x_NCHW, threat, seed), []
    for _ in range(steps + 1):
        at = slopes(model, point, y_N)
        if at is None:
            return []
        found.append(at)
        step = 2 * threat.radius / steps * _direction(at.gradient_NCHW.nan_to_num(0, 0, 0), threat.norm)
        point = (x_NCHW + project(point + step - x_NCHW, threat.norm, threat.radius)).clamp(0, 1)
    return found


def _random_start(x: Tensor, threat: ThreatModel, seed: int) -> Tensor:
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
        repeats = -(-missing // len(filler_NCHW))
        points = torch.cat([points, filler_NCHW.repeat(repeats, *[1] * (points.dim() - 1))[:missing]])
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


def _gradient(model: Model, points: Tensor, weights: Tensor) -> Tensor | None:
    """The gradient of ``(logits * weights).sum()``, 0 if there is none; None if memory ran out."""
    leaf = points.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = (model(leaf) * weights).sum()
            if not value.requires_grad:
                return torch.zeros_like(points)
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
            return torch.zeros_like(points) if gradient is None else gradient
    except RuntimeError as error:
        if len(points) == 1 or not out_of_memory.is_out_of_memory(error):
            raise
    return None


@torch.no_grad()
def cosines(model: Model, at: Slopes, claimed: Sequence[Tensor], pairs: int, seed: int) -> list[float]:
    """For each claimed gradient (N, C, H, W) at the points of ``at``: its cosine with the true gradient.

    Estimated from ``pairs`` directions of each kind; the lower of the two. Images whose function and gradient
    change by no more than the rounding of float32 do not count; 1 if none does.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = [
        (torch.randint(0, 2, at.points_NCHW.shape, generator=generator) * 2 - 1).to(at.points_NCHW)
        for _ in range(2 * pairs)
    ]
    small = _small_entries(at.gradient_NCHW)
    kinds = signs[:pairs], [sign * small for sign in signs[pairs:]]
    return [min(both) for both in zip(*(_best(model, at, claimed, kind) for kind in kinds), strict=True)]


def _small_entries(gradient: Tensor) -> Tensor:
    """1 outside the largest entries of each image's gradient that hold half of its L1 norm, 0 at those."""
    size = gradient.abs().nan_to_num(0, 0, 0).flatten(1)
    ordered = size.sort(1, descending=True).values
    held = ordered.double().cumsum(1)
    last = (held < held[:, -1:] / 2).sum(1, keepdim=True).clamp_max(size.shape[1] - 1)
    least = ordered.gather(1, last)
    return (size < least.where(least > 0, torch.inf)).view_as(gradient).to(gradient)


def _best(model: Model, at: Slopes, claimed: Sequence[Tensor], directions: Sequence[Tensor]) -> list[float]:
    best: list[float | None] = [None] * len(claimed)
    for size in SIZES:
        measured = _Differences.measure(model, at, directions, size)
        for number, gradient in enumerate(claimed):
            found, before = measured.agreement(gradient), best[number]
            if found is not None:
                best[number] = found if before is None else max(found, before)
        if all(value is not None and value > AGREES for value in best):
            break
    return [1.0 if value is None else value for value in best]


@dataclass(frozen=True)
class _Differences:
    """Central differences, inside the box, along D directions."""

    steps: list[Tensor]
    """Displacements between the two points, D of (N, C, H, W)."""
    changes_DN: Tensor
    rounding_N: Tensor

    @classmethod
    def measure(cls, model: Model, at: Slopes, directions: Sequence[Tensor], size: float) -> _Differences:
        steps, changes, largest = [], [], []
        for direction in directions:
            up, down = ((at.points_NCHW + sign * size * direction).clamp(0, 1) for sign in (1, -1))
            above, below = model(up).double(), model(down).double()
            steps.append(up.double() - down.double())
            changes.append(((above - below) * at.weights_NK).sum(1))
            largest.append(above.abs().amax(1))
        return cls(steps, torch.stack(changes), _ROUNDING * torch.stack(largest).amax(0))

    def agreement(self, gradient: Tensor) -> float | None:
        """Correlation of promised and measured changes, every image with the same weight.

        None if they exceed the rounding on less than a quarter of the images.
        """
        promised = torch.stack([(gradient.double() * step).flatten(1).sum(1) for step in self.steps])
        both = promised, self.changes_DN
        scale = torch.maximum(*(values.square().mean(0).sqrt() for values in both))
        counts = scale.isfinite() & (scale > self.rounding_N)
        if counts.sum() < max(1, len(counts) / 4):
            return None
        a, b = (values[:, counts] / scale[counts] for values in both)
        return float((a * b).sum() / (a.square().sum() * b.square().sum()).sqrt().clamp_min(1e-300))
