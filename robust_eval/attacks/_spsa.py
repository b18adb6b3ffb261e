"""The SPSA gradient estimator and its optimiser (Uesato et al. 2018, algorithm 1).

Unlike some public implementations, the gradient is estimated at the current iterate, and every image has
its own random directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from robust_eval.attacks._signs import directions
from robust_eval.core.logits import margin
from robust_eval.core.norms import project
from robust_eval.core.threat import Norm
from robust_eval.models.acceleration.attack_model import query_steps

Scores = Callable[[Tensor], Tensor]
"""x_NCHW to logits_NK."""
StepLogits = Callable[[Tensor, Tensor], Tensor]
"""(x_NCHW, steps_NSCHW) to the logits_NSK at x + steps."""
Draw = Callable[[int, int], Tensor]
"""(first image, end) to directions r_NPCHW in {-1, +1}: P pairs for each image of the range."""

# Adam's defaults (Kingma and Ba 2015).
BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8


@dataclass(frozen=True, kw_only=True)
class SPSASettings:
    """Threat model and parameters of the attack."""

    norm: Norm
    radius: float
    """Epsilon, for pixels in [0, 1]."""
    iterations: int
    samples: int
    """Queries per gradient estimate: ``samples // 2`` antithetic pairs."""
    delta: float
    """Step of the finite differences."""
    learning_rate: float


def rows_per_call(device: torch.device, pixels: int) -> int:
    """Queries per call of the model; ``pixels``: values of an image (C H W).

    On a CPU about 2**22 input values. The attack copy splits a call into slices that fit into the caches
    (:mod:`robust_eval.models.acceleration.tuning`) and pads the last slice if it is compiled, so a call
    should have many slices: small-cnn runs 1.25 times as fast on 5,350 queries as on 256.
    """
    return min(8192, max(256, 2**22 // max(pixels, 1))) if device.type == "cpu" else 8192


def estimate(
    step_logits: StepLogits, x_NCHW: Tensor, y_N: Tensor, draw: Draw, *, pairs: int, delta: float, rows: int
) -> Tensor:
    """Estimate the gradient of the margin at ``x``, shape (N, C, H, W).

    The estimate is the mean over pairs of (L(x + delta r) - L(x - delta r)) / (2 delta) * r, where L is the
    margin and r are the directions of ``draw``. A call of ``step_logits`` has at most ``rows`` queries.
    """
    gradient = torch.zeros_like(x_NCHW)
    images = max(1, rows // (2 * pairs))
    per_call = max(1, min(pairs, rows // 2))
    for start in range(0, len(x_NCHW), images):
        chunk = slice(start, start + images)
        x, y = x_NCHW[chunk], y_N[chunk]
        r_NPCHW = draw(start, min(start + images, len(x_NCHW)))
        for first in range(0, pairs, per_call):
            r = r_NPCHW[:, first : first + per_call]
            logits_NSK = step_logits(x, torch.cat([delta * r, -delta * r], dim=1)).to(x.dtype)
            labels = y[:, None].expand(logits_NSK.shape[:2]).flatten()
            plus, minus = margin(logits_NSK.flatten(0, 1), labels).view(len(y), 2, -1).unbind(1)
            derivatives = (plus - minus) / (2 * delta)
            gradient[chunk] += torch.einsum("np,npchw->nchw", derivatives, r) / pairs
    # Queries with NaN or infinite logits contribute nothing.
    return gradient.nan_to_num(0.0, 0.0, 0.0)


@torch.no_grad()
def attack(
    scores: Scores,
    x_NCHW: Tensor,
    y_N: Tensor,
    settings: SPSASettings,
    *,
    seed: int,
    rows: int | None = None,
    step_logits: StepLogits | None = None,
) -> Tensor:
    """Minimise the margin of each image by Adam on estimated gradients, projected to ball and box each step.

    Starts at the clean image and stops for an image as soon as it is misclassified. ``step_logits``
    computes the queries, ``scores`` without it; ``rows``: queries per call. Returns adversarial images,
    shape (N, C, H, W).
    """
    step_logits = step_logits or partial(query_steps, scores)
    rows = rows or rows_per_call(x_NCHW.device, x_NCHW.shape[1:].numel())
    pairs, shape = settings.samples // 2, x_NCHW.shape[1:]
    result = x_NCHW.clone()
    active = torch.arange(len(x_NCHW), device=x_NCHW.device)
    x, y, adv = x_NCHW, y_N, x_NCHW
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, settings.iterations + 1):
        if len(active) == 0:
            break

        def draw(start: int, stop: int, ids: Tensor = active, step: int = step) -> Tensor:
            signs = directions(seed, ids[start:stop], step, pairs, shape.numel())
            return signs.float().view(-1, pairs, *shape)

        gradient = estimate(step_logits, adv, y, draw, pairs=pairs, delta=settings.delta, rows=rows)
        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * gradient.square()
        update = first / (1 - BETA_1**step) / ((second / (1 - BETA_2**step)).sqrt() + TINY)
        delta_NCHW = adv - x - settings.learning_rate * update
        adv = (x + project(delta_NCHW, settings.norm, settings.radius)).clamp(0, 1)
        result[active] = adv
        predicted = torch.cat([scores(part).argmax(1) for part in torch.split(adv, rows)])
        # One index for all: each boolean mask would wait for the device.
        left = (predicted == y).nonzero()[:, 0]
        active, x, y, adv = active[left], x[left], y[left], adv[left]
        first, second = first[left], second[left]
    return result
