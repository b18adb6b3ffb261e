"""Compare the gradients of a model with finite differences of its outputs, where attacks use them.

A model may return gradients of another function: masked, shifted or clipped ones, those without its
preprocessing, or right ones at clean images or in small batches only. Attacks follow them in vain. Points
are the images, random points of the ball, and points on the path of PGD. The function is ``z_k - z_y``, where
k is the strongest other class at the point: with another k at every query it would have kinks. At the images
it is also the sum of the logits with the weights of cross-entropy's gradient: a model may return right
gradients for one loss only.

The cosine is estimated from the changes along random directions that the gradient promises and those that two
forward passes measure. Half of the directions change all pixels; large entries of the gradient dominate them.
The others leave out the pixels that hold half of the gradient's L1 norm: they detect gradients that are
right, or not zero, in few pixels only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_eval.core.threat import ThreatModel
from robust_eval.evaluation.checks.attack_points import (
    Model,
    Slopes,
    cross_entropy_weights,
    in_batches,
    path,
    slopes,
)
from robust_eval.results.flags.figures import GradientCosines

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
    on_path = path(model, x_NCHW, y_N, threat, steps=2 if quick else 4, seed=seed)
    if at_images is None or not on_path:
        return GradientCosines()
    at_loss = slopes(model, x_NCHW, y_N, cross_entropy_weights)
    assert at_loss is not None
    places = [at_images, at_loss, *on_path[::2]]
    in_units = in_batches(model, places, pool_NCHW, unit)
    pairs = 1 if quick else 2
    alone, together = [], []
    for place, gradient in zip(places, in_units, strict=True):
        claims = (place.gradient_NCHW, gradient)
        first, second = agreements(model, place, claims, pairs=pairs, seed=seed)
        alone.append(first)
        together.append(second)
    per_image = torch.minimum(_joined(alone), _joined(together))
    images, loss, ball, *later = (min(one.cosine for one in both) for both in alone)
    return GradientCosines(
        images=images,
        loss=loss,
        ball=ball,
        path=min(later),
        batch=min(one.cosine for both in together for one in both),
        batch_size=unit,
        lowest_image=float(per_image.min()),
    )


@dataclass(frozen=True)
class Agreement:
    """Changes along D directions that a gradient promises, and measured ones; 0 for images without any.

    Scaled so that every other image has the same weight.
    """

    promised_DN: Tensor
    measured_DN: Tensor

    @property
    def cosine(self) -> float:
        """Correlation of the changes of all images; 1 if there are none."""
        return float(_correlation(self.promised_DN.flatten(), self.measured_DN.flatten()))

    @property
    def images(self) -> int:
        """Number of images with changes."""
        return int((self.promised_DN.abs() + self.measured_DN.abs()).sum(0).count_nonzero())


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Along the first dimension; 1 where both are zero, 0 where one is."""
    squares = a.square().sum(0) * b.square().sum(0)
    found = (a * b).sum(0) / squares.sqrt().clamp_min(1e-300)
    return found.where((a.abs() + b.abs()).sum(0) > 0, torch.ones_like(found))


def _joined(places: Sequence[tuple[Agreement, Agreement]]) -> Tensor:
    """The cosine of each image (N,), over all places and both kinds of directions."""
    every = [one for both in places for one in both]
    return _correlation(
        torch.cat([one.promised_DN for one in every]), torch.cat([one.measured_DN for one in every])
    )


@torch.no_grad()
def agreements(
    model: Model, at: Slopes, claimed: Sequence[Tensor], *, pairs: int, seed: int
) -> list[tuple[Agreement, Agreement]]:
    """Agreement of claimed gradients (N, C, H, W) at the points of ``at``, along both kinds of directions.

    ``pairs``: directions of each kind. Images whose function and gradient change by no more than the rounding
    of float32 do not count.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = [
        (torch.randint(0, 2, at.points_NCHW.shape, generator=generator) * 2 - 1).to(at.points_NCHW)
        for _ in range(2 * pairs)
    ]
    small = _small_entries(at.gradient_NCHW)
    flat = _best(model, at, claimed, signs[:pairs])
    rest = _best(model, at, claimed, [sign * small for sign in signs[pairs:]])
    return list(zip(flat, rest, strict=True))


def _small_entries(gradient: Tensor) -> Tensor:
    """1 outside the largest entries of each image's gradient that hold half of its L1 norm, 0 at those."""
    size = gradient.abs().nan_to_num(0, 0, 0).flatten(1)
    ordered = size.sort(1, descending=True).values
    held = ordered.double().cumsum(1)
    last = (held < held[:, -1:] / 2).sum(1, keepdim=True).clamp_max(size.shape[1] - 1)
    least = ordered.gather(1, last)
    return (size < least.where(least > 0, torch.inf)).view_as(gradient).to(gradient)


def _best(
    model: Model, at: Slopes, claimed: Sequence[Tensor], directions: Sequence[Tensor]
) -> list[Agreement]:
    """Of each claimed gradient the agreement at the size with the highest cosine.

    Sizes at which less than a quarter of the images have changes count only if there is no other.
    """
    best: list[Agreement] = []
    for size in SIZES:
        found = _measure(model, at, claimed, directions, size)
        best = [max(pair, key=_rank) for pair in zip(best, found, strict=True)] if best else found
        if all(_rank(one) > (True, AGREES) for one in best):
            break
    return best


def _rank(found: Agreement) -> tuple[bool, float]:
    return found.images >= max(1, found.promised_DN.shape[1] / 4), found.cosine


def _measure(
    model: Model, at: Slopes, claimed: Sequence[Tensor], directions: Sequence[Tensor], size: float
) -> list[Agreement]:
    """Central differences, inside the box, along the directions."""
    steps, changes = [], []
    rounding = torch.zeros(len(at.points_NCHW), dtype=torch.float64, device=at.points_NCHW.device)
    for direction in directions:
        up, down = ((at.points_NCHW + sign * size * direction).clamp(0, 1) for sign in (1, -1))
        above, below = model(up).double(), model(down).double()
        steps.append(up.double() - down.double())
        changes.append(((above - below) * at.weights_NK).sum(1))
        rounding = torch.maximum(rounding, _ROUNDING * above.abs().amax(1))
    measured = torch.stack(changes)
    found = []
    for gradient in claimed:
        promised = torch.stack([(gradient.double() * step).flatten(1).sum(1) for step in steps])
        both = promised, measured
        scale = torch.maximum(*(values.square().mean(0).sqrt() for values in both))
        counts = scale.isfinite() & (scale > rounding)
        a, b = ((values / scale).where(counts, torch.zeros_like(values)) for values in both)
        found.append(Agreement(a, b))
    return found
