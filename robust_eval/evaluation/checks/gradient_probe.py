"""Probes of gradients: zero, weak or random ones, and those whose signs do not reduce the margin."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_eval.core.logits import margin
from robust_eval.core.threat import Norm
from robust_eval.evaluation.checks.attack_points import Model

_STEP = 1 / 255


def gradient_figures(
    model: Model, x: Tensor, moved: Tensor, y: Tensor, scale: float, norm: Norm
) -> dict[str, Any]:
    """Gradient figures at the images and near them, where a model may behave differently."""
    at_images, nearby = _gradients(model, x, y), _gradients(model, moved, y)
    if at_images is None or nearby is None:
        zeros = dict.fromkeys(("weak_margin", "gradient_repeat", "gradient_sign_errors"), 0.0)
        return {"no_gradient": True, "zero_ce": 1.0, "zero_margin": 1.0, **zeros}
    again = _gradients(model, x, y)
    assert again is not None
    ce, margin_grad = at_images
    useful = ~_zero(margin_grad)
    return {
        "no_gradient": False,
        "zero_ce": max(_fraction(_lost(ce, norm)), _fraction(_lost(nearby[0], norm))),
        "zero_margin": max(_fraction(_zero(margin_grad)), _fraction(_zero(nearby[1]))),
        "weak_margin": _fraction(useful & (margin_grad.abs().flatten(1).sum(1) < 1e-3 * scale)),
        "gradient_repeat": _relative(again[1][useful], margin_grad[useful]),
        "gradient_sign_errors": _gradient_sign_errors(model, x[useful], y[useful], margin_grad[useful]),
    }


def _gradients(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor] | None:
    """Gradients of cross-entropy and margin, each shaped like x; None if the outputs carry no gradient."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        if not logits.requires_grad:
            return None
        ce = torch.autograd.grad(
            F.cross_entropy(logits, y, reduction="sum"), x, retain_graph=True, allow_unused=True
        )
        margin_grad = torch.autograd.grad(margin(logits, y).sum(), x, allow_unused=True)
    return None if ce[0] is None or margin_grad[0] is None else (ce[0], margin_grad[0])


def _zero(gradient: Tensor) -> Tensor:
    """(N,) bool: the gradient gives no direction for a signed step; some devices flush denormals to zero."""
    largest = gradient.flatten(1).abs().amax(1)
    return (largest < torch.finfo(torch.float32).tiny) | ~largest.isfinite()


def _lost(gradient: Tensor, norm: Norm) -> Tensor:
    """(N,) bool: :func:`_zero`, or in L2 a norm whose square is: other code then computes no direction."""
    if norm == "Linf":
        return _zero(gradient)
    return _zero(gradient) | (gradient.flatten(1).square().sum(1) < torch.finfo(torch.float32).tiny)


def _relative(again: Tensor, margin_grad: Tensor) -> float:
    if not len(margin_grad):
        return 0.0
    size = margin_grad.flatten(1).abs().amax(1)
    return float(((again - margin_grad).flatten(1).abs().amax(1) / size).max())


@torch.no_grad()
def _gradient_sign_errors(model: Model, x: Tensor, y: Tensor, margin_grad: Tensor) -> float:
    if not len(x):
        return 0.0
    stepped = (x - _STEP * margin_grad.sign()).clamp(0, 1)
    return _fraction(margin(model(stepped), y) >= margin(model(x), y))


def _fraction(yes: Tensor) -> float:
    return float(yes.float().mean())
