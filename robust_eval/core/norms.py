"""Distances and projections for Linf and L2, used by attacks, the judge and adversarial training.

Images are ``x_NCHW``, float32 in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from robust_eval.core.threat import Norm, ThreatModel

# float32 rounding of x + delta exceeds the radius by up to about 1e-7 (Linf); a reduced-precision
# image exceeds it by 2e-4 and more, which must be caught.
TOLERANCE = 1e-6

SMALL_GRADIENT = 2.0**-20
"""Largest entry below which a gradient is scaled before its norm is taken."""


def _flat(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.flatten(1)


def norm_per_image(delta_NCHW: Tensor, norm: Norm) -> Tensor:
    """The norm of each image's perturbation, shape (N,), in the input's precision."""
    flat = _flat(delta_NCHW)
    return flat.abs().amax(1) if norm == "Linf" else flat.norm(2, dim=1)


def distance(adv_NCHW: Tensor, x_NCHW: Tensor, norm: Norm) -> Tensor:
    """Distance of each image from its original, shape (N,), computed in float64."""
    return norm_per_image(adv_NCHW.double() - x_NCHW.double(), norm)


def in_ball(distance_N: Tensor, threat: ThreatModel) -> Tensor:
    """Whether the distance is at most epsilon, up to float32 rounding; False for NaN."""
    tolerance = TOLERANCE if threat.norm == "Linf" else TOLERANCE + 1e-4 * threat.radius
    return distance_N <= threat.radius + tolerance


def in_box(adv_NCHW: Tensor) -> Tensor:
    """Whether every pixel is in [0, 1], up to float32 rounding; False for NaN."""
    flat = _flat(adv_NCHW)
    return (flat.amin(1) >= -TOLERANCE) & (flat.amax(1) <= 1 + TOLERANCE)


def project(delta_NCHW: Tensor, norm: Norm, radius: float) -> Tensor:
    """Project perturbations onto the ball of ``radius``; the box [0, 1] is not considered."""
    if norm == "Linf":
        return delta_NCHW.clamp(-radius, radius)
    size = norm_per_image(delta_NCHW, norm).clamp_min(1e-12)
    factor = (radius / size).clamp_max(1.0)
    return delta_NCHW * factor.view(-1, *[1] * (delta_NCHW.dim() - 1))


def scale_small_gradients(gradient_NCHW: Tensor) -> Tensor:
    """Gradients whose L2 norm can be taken: images with entries below SMALL_GRADIENT only are scaled up.

    The cross-entropy of confident predictions has gradients of 1e-20 and less. Their squares underflow in
    float32, and a constant such as 1e-10 in the denominator exceeds their norm: steps of unit length become
    short or vanish. Here the largest entry of such an image becomes at least 0.5. The factor is a power of
    two, so that the direction is exact, as long as the largest entry is not denormal. Larger gradients, zero
    and gradients that are not finite are returned unchanged.
    """
    largest = norm_per_image(gradient_NCHW, "Linf")
    mantissa, _ = torch.frexp(largest)
    factor = mantissa / largest.clamp_min(torch.finfo(largest.dtype).tiny)
    factor = factor.where((largest > 0) & (largest < SMALL_GRADIENT), torch.ones_like(factor))
    return gradient_NCHW * factor.view(-1, *[1] * (gradient_NCHW.dim() - 1))
