"""Projected gradient ascent on the images: x' in the ball that maximises the objective's attack loss.

It shares only ``core.norms`` with the attacks of the evaluation, so that a bug here is not repeated there.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from defenses.objectives import Forward, PerImage
from defenses.recipes.sections import Inner, Replicate
from robust_eval.core.norms import norm_per_image, project, scale_small_gradients
from robust_eval.core.threat import Norm

MIN_RADIUS = 1e-6
"""No attack below this radius; the epsilon schedule of Liu et al. starts at 0."""


FAITHFUL = Replicate(unclamped_start=False, ball_around_start=False, wide_start=False)
"""No slip of the authors' code."""


def maximise(
    forward: Forward,
    loss: PerImage,
    x_NCHW: Tensor,
    *,
    norm: Norm,
    radius: float,
    inner: Inner,
    replicate: Replicate = FAITHFUL,
) -> Tensor:
    """Adversarial images for ``x_NCHW`` (float32 in [0, 1]), within ``radius`` and the box; detached.

    ``loss`` maps logits_NK to one value per image. Returns the last iterate, as all reproduced methods
    do; with restarts, for each image the one with the highest final loss. Gradients are taken with
    respect to the images only, which saves about a third of the work of a full backward pass. Draws from
    torch's global generator.
    """
    if inner.steps == 0 or radius < MIN_RADIUS:
        return x_NCHW.detach()
    ascend = partial(_ascend, forward, loss, x_NCHW, norm, radius, inner, replicate)
    best = ascend()
    if inner.restarts == 1:
        return best
    best_loss = _final_loss(forward, loss, best)
    for _ in range(inner.restarts - 1):
        other = ascend()
        other_loss = _final_loss(forward, loss, other)
        better = other_loss > best_loss
        best = torch.where(better.view(-1, 1, 1, 1), other, best)
        best_loss = torch.where(better, other_loss, best_loss)
    return best


def _ascend(
    forward: Forward,
    loss: PerImage,
    x_NCHW: Tensor,
    norm: Norm,
    radius: float,
    inner: Inner,
    replicate: Replicate,
) -> Tensor:
    step = float(inner.step_size) * radius
    if replicate.wide_start:
        adv = x_NCHW + torch.empty_like(x_NCHW).uniform_(-0.5, 0.5)
    else:
        adv = x_NCHW + _start(x_NCHW, norm, radius, inner)
    if not replicate.unclamped_start:
        adv = adv.clamp_(0, 1)
    if replicate.ball_around_start:
        x_NCHW = adv
    for _ in range(inner.steps):
        adv.requires_grad_(True)
        # The sum over images: a mean would move small gradients towards underflow.
        (gradient,) = torch.autograd.grad(loss(forward(adv)).sum(), adv)
        with torch.no_grad():
            delta = adv + step * direction(gradient, norm) - x_NCHW
            adv = (x_NCHW + (project(delta, norm, radius) if inner.project else delta)).clamp_(0, 1)
    return adv.detach()


def direction(gradient_NCHW: Tensor, norm: Norm) -> Tensor:
    """Direction of steepest ascent with unit norm; 0 for gradient entries that are 0 or not finite.

    The constant 1e-10 is in the authors' code (AWP). Gradients that are not much larger are scaled first.
    """
    gradient_NCHW = torch.nan_to_num(gradient_NCHW, nan=0.0, posinf=0.0, neginf=0.0)
    if norm == "Linf":
        return gradient_NCHW.sign()
    gradient_NCHW = scale_small_gradients(gradient_NCHW)
    return gradient_NCHW / (norm_per_image(gradient_NCHW, norm) + 1e-10).view(-1, 1, 1, 1)


def _start(x_NCHW: Tensor, norm: Norm, radius: float, inner: Inner) -> Tensor:
    """Initial perturbation: 0, Gaussian, or uniform in the ball (L2: random direction, uniform length)."""
    size = float(inner.start_size)
    if inner.start == "none":
        return torch.zeros_like(x_NCHW)
    if inner.start == "gaussian":
        return size * torch.randn_like(x_NCHW)
    if norm == "Linf":
        return torch.empty_like(x_NCHW).uniform_(-size * radius, size * radius)
    noise = torch.randn_like(x_NCHW)
    length = torch.rand(len(x_NCHW), 1, 1, 1, device=x_NCHW.device) * size * radius
    return noise / (norm_per_image(noise, norm) + 1e-10).view(-1, 1, 1, 1) * length


@torch.no_grad()
def _final_loss(forward: Forward, loss: PerImage, adv_NCHW: Tensor) -> Tensor:
    return loss(forward(adv_NCHW))
