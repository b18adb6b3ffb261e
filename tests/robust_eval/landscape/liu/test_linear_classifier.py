"""Oracles: the worst-case perturbation, random search around the minimum, and a linear program."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from robust_eval.core.threat import NORMS, Norm
from robust_eval.landscape.liu import linear_classifier


def clusters(seed: int = 0, d: int = 5, n: int = 60) -> tuple[Tensor, Tensor]:
    """Two overlapping Gaussian classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.ones(n, dtype=torch.float64)
    y[::2] = -1
    centre = torch.randn(d, generator=generator, dtype=torch.float64) / 2
    return y[:, None] * centre + torch.randn(n, d, generator=generator, dtype=torch.float64), y


@pytest.mark.parametrize("norm", NORMS)
def test_the_loss_equals_that_of_the_worst_case_perturbation(norm: Norm) -> None:
    x, y = clusters()
    w = torch.randn(5, dtype=torch.float64)
    direction = w.sign() if norm == "Linf" else w / w.norm()
    worst = x - 0.3 * y[:, None] * direction
    expected = torch.log1p(torch.exp(-y * (worst @ w))).mean()
    torch.testing.assert_close(linear_classifier.adversarial_loss(w, x, y, norm, 0.3), expected)


@pytest.mark.parametrize("norm", ["Linf", pytest.param("L2", marks=pytest.mark.slow)])
def test_trained_weights_are_zero_exactly_above_the_critical_epsilon(norm: Norm) -> None:
    x, y = clusters()
    threshold = linear_classifier.critical_eps(x, y, norm)
    below, above = linear_classifier.sweep(x, y, norm, [0.97 * threshold, 1.03 * threshold], steps=4000)
    assert above.weight_norm == 0
    assert above.loss == pytest.approx(math.log(2))
    # Ties count as half an error: the constant classifier on two balanced classes.
    assert above.clean_error == above.robust_error == 0.5
    assert below.weight_norm > 1e-3
    assert below.loss < math.log(2) - 1e-6


@pytest.mark.parametrize("norm", [pytest.param("Linf", marks=pytest.mark.slow), "L2"])
def test_training_finds_the_minimum(norm: Norm) -> None:
    x, y = clusters(1)
    eps = 0.5 * linear_classifier.critical_eps(x, y, norm)
    w = linear_classifier.train(x, y, norm, eps, steps=4000)
    best = linear_classifier.adversarial_loss(w, x, y, norm, eps)
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for _ in range(50):
            other = w + size * torch.randn(5, generator=generator, dtype=torch.float64)
            assert linear_classifier.adversarial_loss(other, x, y, norm, eps) >= best - 1e-9


def test_softmax_with_two_classes_equals_the_binary_case() -> None:
    x, y = clusters()
    labels = (y > 0).long()
    assert linear_classifier.critical_eps_softmax(x, labels) == pytest.approx(
        linear_classifier.critical_eps(x, y, "Linf")
    )


def test_the_critical_epsilon_of_softmax_equals_that_of_a_linear_program() -> None:
    """The largest first-order gain over all directions U (K, D) with mean_i |u0 - u_yi|_1 <= 1."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    y = torch.tensor([0] * 20 + [1] * 8 + [2] * 7 + [3] * 5)
    gains = []
    for pixel in range(3):
        # Variables: c_k = u_k - u0 (free, summing to 0) and t_k >= |c_k|.
        share = np.array([(y == k).double().mean() for k in range(4)])
        mean = np.array([float(x[y == k, pixel].mean()) for k in range(4)])
        eye = np.eye(4)
        bound = np.vstack([np.hstack([eye, -eye]), np.hstack([-eye, -eye]), np.r_[np.zeros(4), share]])
        found = linprog(
            -np.r_[share * mean, np.zeros(4)],
            A_ub=bound,
            b_ub=[0] * 8 + [1],
            A_eq=[[1] * 4 + [0] * 4],
            b_eq=[0],
            bounds=[(None, None)] * 4 + [(0, None)] * 4,
        )
        gains.append(-found.fun)
    assert linear_classifier.critical_eps_softmax(x, y) == pytest.approx(max(gains))
