"""Adversarial training of a linear classifier, where theory says what must come out.

Liu et al. 2020 (section 3) show that a large enough budget makes the constant classifier optimal. For a
binary classifier w (labels -1 and 1, no bias, no box) the worst perturbation is known, and the adversarial
logistic loss is ``mean log(1 + exp(-y w.x + eps |w|*))`` with |.|* the norm dual to the budget's. It is
convex, so w = 0 is its minimum exactly where it is a stationary point: ``eps >= |mean y x|`` in the
budget's own norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from robust_eval.core.threat import Norm


@dataclass(frozen=True)
class Point:
    """The trained classifier at one budget. Errors are fractions; a score of 0, a tie, counts as half."""

    eps: float
    weight_norm: float
    """In the norm dual to the budget's: L1 for Linf, L2 for L2."""
    loss: float
    clean_error: float
    robust_error: float


def critical_eps(x_ND: Tensor, y_N: Tensor, norm: Norm) -> float:
    """From this budget on the constant classifier is the best linear one; ``y_N`` holds -1 and 1.

    With a bias the condition is the same if the classes are balanced.
    """
    mean_D = (y_N.to(x_ND)[:, None] * x_ND).mean(0)
    return float(mean_D.abs().max() if norm == "Linf" else mean_D.norm())


def critical_eps_softmax(x_ND: Tensor, y_N: Tensor) -> float:
    """The same for softmax regression over K classes with an Linf budget; labels 0..K-1.

    W = 0 is a minimum exactly where no direction U lowers the loss to first order:
    ``mean (u0 - u_y).x + eps mean |u0 - u_y|_1 >= 0`` with u0 the mean row of U. Both sums split over
    pixels, and within a pixel the best U moves two classes against each other, so the budget needed is
    the largest ``(p_a m_a - p_b m_b) / (p_a + p_b)`` over pixels and classes: with balanced classes, half
    the largest distance between two class means in any pixel.
    """
    classes = sorted(set(y_N.tolist()))
    sums = torch.stack([x_ND[y_N == k].sum(0) for k in classes])
    counts = torch.stack([(y_N == k).sum() for k in classes])
    gaps = [
        ((sums[a] - sums[b]).abs() / (counts[a] + counts[b])).max()
        for a, b in combinations(range(len(classes)), 2)
    ]
    return float(torch.stack(gaps).max())


def adversarial_loss(w_D: Tensor, x_ND: Tensor, y_N: Tensor, norm: Norm, eps: float) -> Tensor:
    """The closed form at the top of this page, a scalar."""
    return softplus(-y_N.to(x_ND) * (x_ND @ w_D) + eps * dual(w_D, norm)).mean()


def dual(w_D: Tensor, norm: Norm) -> Tensor:
    """The norm dual to the budget's."""
    return w_D.abs().sum() if norm == "Linf" else w_D.norm()


def train(
    x_ND: Tensor, y_N: Tensor, norm: Norm, eps: float, *, steps: int = 3000, seed: int = 0, start: float = 0.1
) -> Tensor:
    """w (D,) after gradient descent on the adversarial loss from a small random w.

    The step size is one over the largest curvature. |w|* has a kink at 0, where a plain gradient step
    would jump to and fro: it is taken as a proximal step (soft thresholding), whose only resting points
    are minima of the loss.
    """
    y = y_N.to(x_ND)
    signed_ND = y[:, None] * x_ND
    reach = float(signed_ND.pow(2).sum(1).max().sqrt()) + eps * (
        x_ND.shape[1] ** 0.5 if norm == "Linf" else 1
    )
    rate = 4 / reach**2
    generator = torch.Generator().manual_seed(seed)
    w = start * torch.randn(x_ND.shape[1], generator=generator, dtype=x_ND.dtype).to(x_ND.device)
    for _ in range(steps):
        slope_N = torch.sigmoid(-(signed_ND @ w) + eps * dual(w, norm))
        w = _shrink(w + rate * (slope_N @ signed_ND) / len(y), rate * eps * float(slope_N.mean()), norm)
    return w


def _shrink(w_D: Tensor, by: float, norm: Norm) -> Tensor:
    """The proximal operator of ``by`` times the dual norm."""
    if norm == "Linf":
        shrunk: Tensor = w_D.sign() * (w_D.abs() - by).clamp_min(0)
    else:
        shrunk = w_D * (1 - by / w_D.norm().clamp_min(1e-30)).clamp_min(0)
    return shrunk


def sweep(
    x_ND: Tensor, y_N: Tensor, norm: Norm, budgets: Sequence[float], *, steps: int = 3000, seed: int = 0
) -> Iterator[Point]:
    """Train at every budget and measure on the same images."""
    for eps in budgets:
        w = train(x_ND, y_N, norm, eps, steps=steps, seed=seed)
        score_N = y_N.to(x_ND) * (x_ND @ w)
        size = dual(w, norm)
        yield Point(
            eps,
            float(size),
            float(adversarial_loss(w, x_ND, y_N, norm, eps)),
            _error(score_N),
            _error(score_N - eps * size),
        )


def _error(score_N: Tensor) -> float:
    """Half of a tie: w = 0 says nothing, and the constant classifier it stands for errs on half of two
    balanced classes."""
    return float((score_N < 0).double().mean() + (score_N == 0).double().mean() / 2)
