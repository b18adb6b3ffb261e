"""Adversarial training of a linear classifier, for which the optimum is known in closed form.

Liu et al. 2020 (section 3) show that for large enough epsilon the constant classifier is optimal. For a
binary classifier w (labels -1 and 1, no bias, no box) the worst-case perturbation is known, and the
adversarial logistic loss is ``mean log(1 + exp(-y w.x + eps |w|*))`` with |.|* the dual of the threat model's
norm. It is convex, so w = 0 is its minimum exactly if it is a stationary point: ``eps >= |mean y x|`` in the
threat model's norm.
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
class LinearClassifierResult:
    """The classifier trained at one epsilon. Errors are fractions; a tie (score 0) counts as half an error.

    The field names are those of the JSON.
    """

    eps: float
    weight_norm: float
    """Dual norm of w: L1 for Linf, L2 for L2."""
    loss: float
    clean_error: float
    robust_error: float


def critical_eps(x_ND: Tensor, y_N: Tensor, norm: Norm) -> float:
    """The smallest epsilon at which the constant classifier is optimal; ``y_N`` contains -1 and 1.

    With a bias the condition is the same if the classes are balanced.
    """
    mean_D = (y_N.to(x_ND)[:, None] * x_ND).mean(0)
    return float(mean_D.abs().max() if norm == "Linf" else mean_D.norm())


def critical_eps_softmax(x_ND: Tensor, y_N: Tensor) -> float:
    """The critical Linf epsilon of softmax regression over K classes; labels 0..K-1.

    W = 0 is a minimum exactly if no direction U decreases the loss to first order:
    ``mean (u0 - u_y).x + eps mean |u0 - u_y|_1 >= 0`` with u0 the mean row of U. Both sums separate over
    pixels, and within a pixel the best U moves two classes in opposite directions. The critical epsilon is
    therefore the largest ``(p_a m_a - p_b m_b) / (p_a + p_b)`` over pixels and classes: with balanced
    classes, half the largest difference between two class means in any pixel.
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
    """The closed form of the module's docstring, a scalar in nats."""
    return softplus(-y_N.to(x_ND) * (x_ND @ w_D) + eps * dual_norm(w_D, norm)).mean()


def dual_norm(w_D: Tensor, norm: Norm) -> Tensor:
    """The dual of ``norm``, applied to ``w_D``."""
    return w_D.abs().sum() if norm == "Linf" else w_D.norm()


def train(
    x_ND: Tensor, y_N: Tensor, norm: Norm, eps: float, *, steps: int = 3000, seed: int = 0, start: float = 0.1
) -> Tensor:
    """w (D,) after ``steps`` steps of proximal gradient descent on the adversarial loss.

    Starts from Gaussian weights of standard deviation ``start``. The step size is one over the largest
    curvature. |w|* is not differentiable at 0, so it is handled by a proximal step (soft thresholding), whose
    fixed points are the minima of the loss.
    """
    y = y_N.to(x_ND)
    signed_ND = y[:, None] * x_ND
    bound = float(signed_ND.pow(2).sum(1).max().sqrt()) + eps * (
        x_ND.shape[1] ** 0.5 if norm == "Linf" else 1
    )
    step_size = 4 / bound**2
    generator = torch.Generator().manual_seed(seed)
    w = start * torch.randn(x_ND.shape[1], generator=generator, dtype=x_ND.dtype).to(x_ND.device)
    for _ in range(steps):
        weight_N = torch.sigmoid(-(signed_ND @ w) + eps * dual_norm(w, norm))
        descended = w + step_size * (weight_N @ signed_ND) / len(y)
        w = _proximal_step(descended, step_size * eps * float(weight_N.mean()), norm)
    return w


def _proximal_step(w_D: Tensor, size: float, norm: Norm) -> Tensor:
    """The proximal operator of ``size`` times the dual norm."""
    if norm == "Linf":
        shrunk: Tensor = w_D.sign() * (w_D.abs() - size).clamp_min(0)
    else:
        shrunk = w_D * (1 - size / w_D.norm().clamp_min(1e-30)).clamp_min(0)
    return shrunk


def sweep(
    x_ND: Tensor, y_N: Tensor, norm: Norm, epsilons: Sequence[float], *, steps: int = 3000, seed: int = 0
) -> Iterator[LinearClassifierResult]:
    """Train at every epsilon and measure on the training images."""
    for eps in epsilons:
        w = train(x_ND, y_N, norm, eps, steps=steps, seed=seed)
        score_N = y_N.to(x_ND) * (x_ND @ w)
        size = dual_norm(w, norm)
        yield LinearClassifierResult(
            eps,
            float(size),
            float(adversarial_loss(w, x_ND, y_N, norm, eps)),
            _error(score_N),
            _error(score_N - eps * size),
        )


def _error(score_N: Tensor) -> float:
    """Fraction of negative scores plus half the ties: the constant classifier w = 0 has error 1/2 on balanced
    classes."""
    return float((score_N < 0).double().mean() + (score_N == 0).double().mean() / 2)
