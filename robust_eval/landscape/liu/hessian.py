"""The largest eigenvalues of the Hessian of a loss with respect to the weights.

Power iteration with Hessian-vector products, used by Liu et al. 2020 (section 4) to measure the sharpness of
minima of adversarial training. The images are fixed: adversarial images are made once at the given weights,
and the attack is not differentiated. Eigenvectors already found are projected out (deflation), so that
eigenvalues are found in order of absolute value, with their sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TOLERANCE = 1e-3
ITERATIONS = 50
"""Defaults, both as in the code of Liu et al."""


@dataclass(frozen=True)
class Eigenpair:
    value: float
    vector_P: Tensor
    """Unit vector over all parameters in their order."""
    residual: float
    """``|Hv - value v|``: H has an eigenvalue at most this far from ``value``."""
    iterations: int
    converged: bool
    """False if the iterations ended before convergence."""


class Hessian:
    """Hessian-vector products of the mean cross-entropy over ``x_NCHW, y_N`` with respect to ``parameters``.

    ``model`` maps pixels in [0, 1] to logits_NK and must be in eval mode, so that the loss is a mean over
    images and can be computed in batches of at most ``batch_size`` images.
    """

    def __init__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        *,
        parameters: Sequence[nn.Parameter] | None = None,
        batch_size: int = 500,
    ) -> None:
        self.model, self.x, self.y, self.batch_size = model, x_NCHW, y_N, batch_size
        self.parameters = list(model.parameters() if parameters is None else parameters)

    @property
    def size(self) -> int:
        """P, the number of weights."""
        return sum(p.numel() for p in self.parameters)

    def __matmul__(self, vector_P: Tensor) -> Tensor:
        """``H @ v``, shape (P,), by differentiating twice (Pearlmutter 1994)."""
        parts = torch.split(vector_P, [p.numel() for p in self.parameters])
        along = [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]
        total = torch.zeros_like(vector_P)
        for start in range(0, len(self.y), self.batch_size):
            x, y = self.x[start : start + self.batch_size], self.y[start : start + self.batch_size]
            with torch.enable_grad():
                loss = cross_entropy(self.model(x), y, reduction="sum")
                gradients = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)
                pairs = [(g, v) for g, v in zip(gradients, along, strict=True) if g is not None]
                # Without curvature in any weight, the inner product has no gradient.
                inner = torch.stack([(g * v).sum() for g, v in pairs]).sum()
                products: Sequence[Tensor | None] = [None] * len(self.parameters)
                if inner.requires_grad:
                    products = torch.autograd.grad(inner, self.parameters, allow_unused=True)
            total += _flat(products, self.parameters)
        return total / len(self.y)


def top_eigenpairs(
    hessian: Hessian,
    count: int,
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
    iterations: int = ITERATIONS,
    known: Sequence[Eigenpair] = (),
) -> Iterator[Eigenpair]:
    """Eigenpairs by decreasing ``|value|`` after the ``known`` ones, up to ``count`` including those.

    An eigenpair has converged when its value changes by less than ``tolerance`` (relative) and its residual
    is below ten times that. After ``iterations`` products it is returned without convergence.
    """
    pairs = list(known)
    for index in range(len(pairs), min(count, hessian.size)):
        start = _random_start(hessian, seed + index)
        pair = _power_iteration(hessian, start, [one.vector_P for one in pairs], tolerance, iterations)
        pairs.append(pair)
        yield pair


def _power_iteration(
    hessian: Hessian, vector_P: Tensor, others: Sequence[Tensor], tolerance: float, iterations: int
) -> Eigenpair:
    vector_P = _unit(_orthogonal_part(vector_P, others))
    last: tuple[Tensor, Tensor] | None = None
    value = residual = float("nan")
    best_P, converged, count = vector_P, False, 0
    while count < iterations and not converged:
        count += 1
        product_P = _orthogonal_part(hessian @ vector_P, others)
        previous = value
        value, best_P, residual = _rayleigh_ritz(vector_P, product_P, last)
        size = abs(value) + 1e-12
        converged = abs(value - previous) < tolerance * size and residual < 10 * tolerance * size
        last = (vector_P, product_P)
        vector_P = _unit(product_P) if float(product_P.norm()) > 0 else vector_P
    return Eigenpair(value, best_P, residual, count, converged)


def _rayleigh_ritz(
    vector_P: Tensor, product_P: Tensor, last: tuple[Tensor, Tensor] | None
) -> tuple[float, Tensor, float]:
    """(value, vector, residual) of the best approximation in the span of the last two iterates.

    A single iterate does not converge for eigenvalues of equal size and opposite sign, such as 3 and -3; two
    iterates span both eigenvectors. No further product is needed.
    """
    value = float(product_P @ vector_P)
    single = (value, vector_P, float((product_P - value * vector_P).norm()))
    if last is None:
        return single
    overlap = vector_P @ last[0]
    rest_P = last[0] - overlap * vector_P
    length = float(rest_P.norm())
    if length < 1e-2:  # nearly parallel: the second basis vector would be rounding noise
        return single
    basis_2P = torch.stack([vector_P, rest_P / length])
    images_2P = torch.stack([product_P, (last[1] - overlap * product_P) / length])
    matrix = basis_2P @ images_2P.T
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    index = int(values.abs().argmax())
    ritz_value, ritz_P = float(values[index]), vectors[:, index] @ basis_2P
    residual = float((vectors[:, index] @ images_2P - ritz_value * ritz_P).norm())
    return (ritz_value, ritz_P, residual) if residual < single[2] else single


def _orthogonal_part(vector_P: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The component orthogonal to all ``others``, which are mutually orthogonal unit vectors."""
    for other in others:
        vector_P = vector_P - (vector_P @ other) * other
    return vector_P


def _unit(vector_P: Tensor) -> Tensor:
    unit: Tensor = vector_P / vector_P.norm().clamp_min(torch.finfo(vector_P.dtype).tiny)
    return unit


def _random_start(hessian: Hessian, seed: int) -> Tensor:
    """A Gaussian vector, drawn on the CPU so that it is equal on every device."""
    first = hessian.parameters[0]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(hessian.size, generator=generator, dtype=first.dtype).to(first.device)


def _flat(products: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """One vector (P,), with zeros for None."""
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(products, parameters, strict=True)]
    return torch.cat([part.flatten() for part in parts])
