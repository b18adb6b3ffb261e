"""Distances and projections for Linf and L2, used by the judge and by adversarial training.

Images are ``x_NCHW``, float32 in [0, 1].
"""

from __future__ import annotations

from torch import Tensor

from robust_eval.core.threat import Norm, ThreatModel

# float32 rounding of x + delta exceeds the radius by up to about 1e-7 (Linf); a reduced-precision
# image exceeds it by 2e-4 and more, which must be caught.
TOLERANCE = 1e-6


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
