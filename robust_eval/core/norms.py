"""Distances, projections and the grid on which adversarial images are stored.

Shared by the judge and by training's inner maximisation. Shapes: ``x_NCHW`` float32 in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from robust_eval.core.threat import Norm, ThreatModel

# float32 rounding of x + delta exceeds the radius by up to about 1e-7 (Linf); a reduced-precision
# image exceeds it by 2e-4 and more, which must be caught.
TOLERANCE = 1e-6
# Adversarial images are kept as 16-bit integers; every 8-bit level is exactly on this grid.
GRID = 65535


def _flat(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.flatten(1)


def norm_per_image(delta_NCHW: Tensor, norm: Norm) -> Tensor:
    """The norm of each image's perturbation, shape (N,), in the input's precision."""
    flat = _flat(delta_NCHW)
    return flat.abs().amax(1) if norm == "Linf" else flat.norm(2, dim=1)


def distance(adv_NCHW: Tensor, x_NCHW: Tensor, norm: Norm) -> Tensor:
    """Distances in float64, shape (N,), whatever the inputs' precision."""
    return norm_per_image(adv_NCHW.double() - x_NCHW.double(), norm)


def in_ball(distance_N: Tensor, threat: ThreatModel) -> Tensor:
    """True where the distance is within eps, to float32 rounding; False for NaN."""
    slack = TOLERANCE if threat.norm == "Linf" else TOLERANCE + 1e-4 * threat.radius
    return distance_N <= threat.radius + slack


def in_box(adv_NCHW: Tensor) -> Tensor:
    """True where every pixel lies in [0, 1], to float32 rounding; False for NaN."""
    flat = _flat(adv_NCHW)
    return (flat.amin(1) >= -TOLERANCE) & (flat.amax(1) <= 1 + TOLERANCE)


def project(delta_NCHW: Tensor, norm: Norm, radius: float) -> Tensor:
    """The nearest perturbation within ``radius`` (the ball alone; clamp to the box afterwards)."""
    if norm == "Linf":
        return delta_NCHW.clamp(-radius, radius)
    size = norm_per_image(delta_NCHW, norm).clamp_min(1e-12)
    factor = (radius / size).clamp_max(1.0)
    return delta_NCHW * factor.view(-1, *[1] * (delta_NCHW.dim() - 1))


def snap(adv_NCHW: Tensor, x_NCHW: Tensor, *, outward: bool = False) -> Tensor:
    """``adv`` on the 16-bit grid, each pixel rounded toward the clean image (or away from it).

    Rounding toward ``x`` cannot lengthen a perturbation, so an image inside the ball stays inside.
    Returns int32 grid levels, clamped to 0..65535; NaN pixels become the clean pixel's level.
    """
    adv, x = adv_NCHW.double() * GRID, x_NCHW.double() * GRID
    # float32 holds a grid level only to about 4e-3 of a step: without this margin a value that is
    # on the grid would be rounded away from itself.
    margin = 2.0**-7
    if outward:
        rounded = torch.where(adv > x, (adv - margin).ceil(), (adv + margin).floor())
    else:
        rounded = torch.where(adv > x, (adv + margin).floor(), (adv - margin).ceil())
    rounded = torch.where((adv - x).abs() <= margin, x.round(), rounded)
    return torch.where(adv.isnan(), x.round(), rounded).clamp(0, GRID).to(torch.int32)


def unsnap(levels_NCHW: Tensor) -> Tensor:
    """Grid levels back to float32 pixels in [0, 1]."""
    return (levels_NCHW.double() / GRID).float()
