"""A few dozen forward passes that show whether attacks can be believed on this model.

Each probe returns a figure; what it means is decided in :mod:`robust_eval.flags`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_NOISE = (1e-6, 1e-4)
_DRAWS = 10


@dataclass(frozen=True)
class Probe:
    """Figures on ``n`` images; fractions lie in [0, 1], differences are in units of the logits' std."""

    n: int
    nonfinite: float
    """Fraction of images with a NaN or infinite logit."""
    training_modules: int
    """Submodules still in training mode after ``eval()``."""
    probabilities: bool
    """Outputs are non-negative with one and the same sum for every image."""
    repeat: float
    """Largest difference between two passes over the same batch."""
    batch: float
    """Largest difference between a batch and its images one by one."""
    jump_fine: float
    """Largest response to sign noise of size 1e-6."""
    jump_coarse: float
    """Largest response to sign noise of size 1e-4."""
    no_gradient: bool
    """The outputs carry no gradient to the input at all."""
    zero_ce: float
    """Fraction of images whose cross-entropy gradient is exactly zero, or not finite."""
    zero_margin: float
    """The same for the margin loss, which does not saturate."""


def probe(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, *, seed: int = 0) -> Probe:
    """Look at a model in eval mode on a handful of images ([0, 1] pixels in, logits out)."""
    training = sum(module.training for module in model.modules())
    with torch.no_grad():
        logits = model(x_NCHW)
        finite = logits.isfinite().all(1)
        scale = float(logits[finite].std()) if finite.sum() > 1 else 1.0
        scale = max(scale, 1e-12)
        totals = logits.double().sum(1)
        probabilities = bool(
            (logits >= 0).all() and (totals - totals.mean()).abs().max() < 1e-4 * totals.mean().abs()
        )
        repeat = _difference(model(x_NCHW), logits) / scale
        single = torch.cat([model(image[None]) for image in x_NCHW[:16]])
        batch = _difference(single, logits[:16]) / scale
        fine, coarse = (_jump(model, x_NCHW[:16], size, seed) / scale for size in _NOISE)
    no_gradient, zero_ce = _zero_gradients(model, x_NCHW, lambda z: F.cross_entropy(z, y_N, reduction="sum"))
    _, zero_margin = _zero_gradients(model, x_NCHW, lambda z: margin(z, y_N).sum())
    return Probe(
        n=len(x_NCHW),
        nonfinite=float((~finite).float().mean()),
        training_modules=training,
        probabilities=probabilities,
        repeat=repeat,
        batch=batch,
        jump_fine=fine,
        jump_coarse=coarse,
        no_gradient=no_gradient,
        zero_ce=zero_ce,
        zero_margin=zero_margin,
    )


def margin(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """``z_y - max_{k != y} z_k``, shape (N,); at most 0 where the prediction is wrong."""
    true = logits_NK.gather(1, y_N[:, None]).squeeze(1)
    others = logits_NK.scatter(1, y_N[:, None], float("-inf"))
    return true - others.amax(1)


def _difference(a: Tensor, b: Tensor) -> float:
    gap = (a - b).abs()
    return float(gap[gap.isfinite()].max()) if gap.isfinite().any() else 0.0


def _jump(model: nn.Module, x: Tensor, size: float, seed: int) -> float:
    """Largest response to sign noise of one size, from images moved off the 8-bit grid.

    Rounding inside a model is invisible on the grid itself, where every pixel sits mid-step.
    """
    generator = torch.Generator().manual_seed(seed)
    start = (x + 4 / 255 * (2 * torch.rand(x.shape, generator=generator).to(x) - 1)).clamp(0, 1)
    logits = model(start)
    largest = 0.0
    for _ in range(_DRAWS):
        signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
        largest = max(largest, _difference(model((start + size * signs).clamp(0, 1)), logits))
    return largest


def _zero_gradients(model: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[bool, float]:
    """(no gradient at all, fraction of images whose gradient is zero or not finite)."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        value = loss(model(x))
        gradient = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    if gradient is None:
        return True, 1.0
    largest = gradient.flatten(1).abs().amax(1)
    return False, float(((largest == 0) | ~largest.isfinite()).float().mean())
