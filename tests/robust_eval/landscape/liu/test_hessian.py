"""Oracle: the exact Hessian of a network with 81 weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from robust_eval.landscape.liu.hessian import Hessian, top_eigenpairs


def small_problem() -> tuple[nn.Module, Tensor, Tensor]:
    """Far from a minimum, so that some of the largest eigenvalues are negative."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 3)).double().eval()
    for parameter in model.parameters():
        parameter.data *= 3
    return model, torch.rand(40, 1, 3, 3).double(), torch.randint(0, 3, (40,))


def exact_hessian(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = torch.split(flat, sizes)
        weights = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return cross_entropy(functional_call(model, weights, (x,)), y)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    found: Tensor = torch.autograd.functional.hessian(loss, flat)
    return found


def test_products_equal_those_of_the_exact_matrix_for_every_batch_size() -> None:
    model, x, y = small_problem()
    matrix, vector = exact_hessian(model, x, y), torch.randn(81).double()
    for batch_size in (7, 40):
        hessian = Hessian(model, x, y, batch_size=batch_size)
        assert hessian.size == 81
        torch.testing.assert_close(hessian @ vector, matrix @ vector)


def test_eigenvalues_equal_those_of_the_exact_matrix_including_sign() -> None:
    model, x, y = small_problem()
    values, vectors = torch.linalg.eigh(exact_hessian(model, x, y))
    order = values.abs().argsort(descending=True)[:6]
    pairs = list(top_eigenpairs(Hessian(model, x, y), 6, tolerance=1e-10, iterations=5000))
    found = torch.tensor([pair.value for pair in pairs], dtype=torch.float64)
    torch.testing.assert_close(found, values[order], rtol=1e-5, atol=1e-8)
    assert (found < 0).any()
    assert (found > 0).any()
    for pair, index in zip(pairs, order, strict=True):
        assert abs(pair.vector_P @ vectors[:, index]) == pytest.approx(1, abs=1e-6)
        assert pair.converged


def test_the_residual_bounds_the_error_without_convergence() -> None:
    model, x, y = small_problem()
    values = torch.linalg.eigvalsh(exact_hessian(model, x, y))
    (pair,) = top_eigenpairs(Hessian(model, x, y), 1, iterations=2)
    assert not pair.converged
    assert (values - pair.value).abs().min() <= pair.residual + 1e-12


def test_known_pairs_are_not_found_again() -> None:
    model, x, y = small_problem()
    all_pairs = list(top_eigenpairs(Hessian(model, x, y), 3))
    rest = list(top_eigenpairs(Hessian(model, x, y), 3, known=all_pairs[:2]))
    assert [pair.value for pair in rest] == [all_pairs[2].value]


def test_eigenvalues_are_limited_to_the_number_of_weights_and_zero_without_curvature() -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False)).eval()
    # One class: the loss is 0 everywhere.
    hessian = Hessian(linear, torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))
    assert [pair.value for pair in top_eigenpairs(hessian, 9)] == [0, 0, 0, 0]


class Diagonal(Hessian):
    """A diagonal matrix in place of a network's Hessian."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(nn.Linear(len(values), 1, bias=False).double(), torch.empty(0), torch.empty(0))
        self.values = torch.tensor(values, dtype=torch.float64)

    def __matmul__(self, vector_P: Tensor) -> Tensor:
        return self.values * vector_P


def test_eigenvalues_of_equal_size_and_opposite_sign_are_separated() -> None:
    pairs = list(top_eigenpairs(Diagonal([3, -3, 1, 0.5, -0.2]), 3))
    assert sorted(pair.value for pair in pairs[:2]) == pytest.approx([-3, 3], rel=1e-3)
    assert pairs[2].value == pytest.approx(1, rel=1e-3)
    assert all(pair.converged and pair.iterations < 40 for pair in pairs)
