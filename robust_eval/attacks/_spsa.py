"""The SPSA estimator and its optimiser: pure functions of a scores callable, no gradients.

Uesato et al. 2018, algorithm 1, with what public implementations get wrong put right: the estimate is
taken at the current iterate, and every image has random directions of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from robust_eval.core.norms import project
from robust_eval.core.threat import Norm
from robust_eval.models.acceleration.attack_model import query_steps

Scores = Callable[[Tensor], Tensor]
"""x_NCHW to logits_NK."""
Near = Callable[[Tensor, Tensor], Tensor]
"""(x_NCHW, steps_NSCHW) to the logits_NSK at x + steps."""
Draw = Callable[[int, int], Tensor]
"""(first image, end) to directions r_NPCHW in {-1, +1}, P pairs for each image."""

# Adam's defaults (Kingma and Ba 2015).
BETA_1, BETA_2, TINY = 0.9, 0.999, 1e-8


def rows_per_call(device: torch.device, pixels: int) -> int:
    """Queries in one forward pass: what keeps the device busy.

    On a CPU about 2**22 input values. The network is called on slices that its caches hold
    (:mod:`robust_eval.models.acceleration.tuning`); compiled for one size, it computes a whole slice for what is left
    over, so many slices must come together: small-cnn runs 1.25 times as fast on 5,350 queries as on 256.
    """
    return min(8192, max(256, 2**22 // max(pixels, 1))) if device.type == "cpu" else 8192


def margin(logits_NK: Tensor, y_N: Tensor) -> Tensor:
    """z_y - max_{k != y} z_k, shape (N,): negative where the image is misclassified."""
    true = logits_NK.gather(1, y_N[:, None])[:, 0]
    return true - logits_NK.scatter(1, y_N[:, None], -torch.inf).amax(1)


def directions(
    seed: int, image: int, step: int, pairs: int, size: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int8]]:
    """Independent signs, shape (pairs, size).

    Keyed by seed, image and step (a counter-based generator), so an image's directions do not depend
    on its neighbours, on who is broken already, or on the device.
    """
    bits = np.random.Generator(np.random.Philox(key=[seed, image], counter=[0, 0, 0, step]))
    row = -(-size // 8)
    packed = np.frombuffer(bits.bytes(pairs * row), dtype=np.uint8).reshape(pairs, row)
    signs: np.ndarray[tuple[int, int], np.dtype[np.int8]] = (
        np.unpackbits(packed, axis=1, count=size).astype(np.int8) * 2 - 1
    )
    return signs


def estimate(
    near: Near, x_NCHW: Tensor, y_N: Tensor, draw: Draw, *, pairs: int, delta: float, rows: int
) -> Tensor:
    """An estimate of the margin's gradient at ``x``, shape (N, C, H, W).

    The mean over pairs of (L(x + delta r) - L(x - delta r)) / (2 delta) * r, where L is the margin and
    ``draw`` gives a range of images their directions r; at most ``rows`` queries in a call of ``near``.
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
            logits_NSK = near(x, torch.cat([delta * r, -delta * r], dim=1)).to(x.dtype)
            labels = y[:, None].expand(logits_NSK.shape[:2]).flatten()
            plus, minus = margin(logits_NSK.flatten(0, 1), labels).view(len(y), 2, -1).unbind(1)
            slopes = (plus - minus) / (2 * delta)
            gradient[chunk] += torch.einsum("np,npchw->nchw", slopes, r) / pairs
    # A model that answers NaN or infinity to a query teaches nothing there.
    return gradient.nan_to_num(0.0, 0.0, 0.0)


@torch.no_grad()
def attack(
    scores: Scores,
    x_NCHW: Tensor,
    y_N: Tensor,
    *,
    norm: Norm,
    radius: float,
    iterations: int,
    samples: int,
    delta: float,
    learning_rate: float,
    seed: int,
    rows: int | None = None,
    near: Near | None = None,
) -> Tensor:
    """Minimise each image's margin by Adam on estimated gradients, projected to ball and box each step.

    Starts at the clean image. An image stops as soon as it is misclassified. ``samples`` queries per
    estimate (``samples // 2`` antithetic pairs), answered by ``near`` if that is given. Returns
    candidates, shape (N, C, H, W).
    """
    near = near or partial(query_steps, scores)
    rows = rows or rows_per_call(x_NCHW.device, x_NCHW.shape[1:].numel())
    pairs, shape = samples // 2, x_NCHW.shape[1:]
    result = x_NCHW.clone()
    active = torch.arange(len(x_NCHW), device=x_NCHW.device)
    x, y, adv = x_NCHW, y_N, x_NCHW
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(1, iterations + 1):
        if len(active) == 0:
            break

        def draw(start: int, stop: int, ids: Sequence[int] = active.tolist(), step: int = step) -> Tensor:
            signs = np.stack(
                [directions(seed, image, step, pairs, shape.numel()) for image in ids[start:stop]]
            )
            return torch.from_numpy(signs).to(x_NCHW.device).float().view(-1, pairs, *shape)

        gradient = estimate(near, adv, y, draw, pairs=pairs, delta=delta, rows=rows)
        first = BETA_1 * first + (1 - BETA_1) * gradient
        second = BETA_2 * second + (1 - BETA_2) * gradient.square()
        update = first / (1 - BETA_1**step) / ((second / (1 - BETA_2**step)).sqrt() + TINY)
        adv = (x + project(adv - x - learning_rate * update, norm, radius)).clamp(0, 1)
        result[active] = adv
        correct = torch.cat([scores(part).argmax(1) for part in torch.split(adv, rows)]) == y
        active, x, y, adv = active[correct], x[correct], y[correct], adv[correct]
        first, second = first[correct], second[correct]
    return result
