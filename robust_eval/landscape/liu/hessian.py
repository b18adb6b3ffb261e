"""The largest eigenvalues of the Hessian of a loss with respect to the weights.

Power iteration over Hessian-vector products, as Liu et al. 2020 (section 4) measure how sharp a minimum of
adversarial training is. The images are fixed: adversarial images are made once at the given weights, and
nothing is differentiated through the attack. Found eigenvectors are kept out of the search (deflation),
so that eigenvalues come by size, negative ones with their sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

TOLERANCE = 1e-3
ITERATIONS = 50
"""Both as in the code of Liu et al."""


@dataclass(frozen=True)
class Eigenpair:
    value: float
    vector_P: Tensor
    """Unit length, over all parameters in their order."""
    residual: float
    """``|Hv - value v|``: an eigenvalue of H lies within this of ``value``."""
    iterations: int
    converged: bool
    """False where the iterations ran out first."""


class Hessian:
    """H of the mean cross-entropy over ``x_NCHW, y_N`` with respect to ``parameters``, by products alone.

    ``model`` maps pixels in [0, 1] to logits_NK and must be in eval mode: BatchNorm then makes the loss a
    mean over images, and batches of at most ``batch`` images add up to it.
    """

    def __init__(
        self,
        model: nn.Module,
        x_NCHW: Tensor,
        y_N: Tensor,
        *,
        parameters: Sequence[nn.Parameter] | None = None,
        batch: int = 500,
    ) -> None:
        self.model, self.x, self.y, self.batch = model, x_NCHW, y_N, batch
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
        for start in range(0, len(self.y), self.batch):
            x, y = self.x[start : start + self.batch], self.y[start : start + self.batch]
            with torch.enable_grad():
                loss = cross_entropy(self.model(x), y, reduction="sum")
                slopes = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)
                pairs = [(g, v) for g, v in zip(slopes, along, strict=True) if g is not None]
                # Weights that the loss reaches linearly alone have no second derivative at all.
                inner = torch.stack([(g * v).sum() for g, v in pairs]).sum()
                found: Sequence[Tensor | None] = [None] * len(self.parameters)
                if inner.requires_grad:
                    found = torch.autograd.grad(inner, self.parameters, allow_unused=True)
            total += _flat(found, self.parameters)
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
    """Eigenpairs by falling ``|value|``, ``known`` ones not repeated, up to ``count`` in all.

    An eigenpair is done when its value changes by less than ``tolerance`` of itself and its
    residual is below ten times that, or after ``iterations`` products; ``residual`` says how good it is.
    """
    found = list(known)
    for place in range(len(found), min(count, hessian.size)):
        start = _start(hessian, seed + place)
        pair = _power(hessian, start, [f.vector_P for f in found], tolerance, iterations)
        found.append(pair)
        yield pair


def _power(
    hessian: Hessian, vector_P: Tensor, others: Sequence[Tensor], tolerance: float, iterations: int
) -> Eigenpair:
    vector_P = _unit(_without(vector_P, others))
    last: tuple[Tensor, Tensor] | None = None
    value = residual = float("nan")
    best_P, done, count = vector_P, False, 0
    while count < iterations and not done:
        count += 1
        product_P = _without(hessian @ vector_P, others)
        before = value
        value, best_P, residual = _ritz(vector_P, product_P, last)
        size = abs(value) + 1e-12
        done = abs(value - before) < tolerance * size and residual < 10 * tolerance * size
        last = (vector_P, product_P)
        vector_P = _unit(product_P) if float(product_P.norm()) > 0 else vector_P
    return Eigenpair(value, best_P, residual, count, done)


def _ritz(
    vector_P: Tensor, product_P: Tensor, last: tuple[Tensor, Tensor] | None
) -> tuple[float, Tensor, float]:
    """(value, vector, residual) of the best approximation within the last two iterates (Rayleigh-Ritz).

    One iterate alone turns for ever between the eigenvectors of a pair such as 3 and -3, or nearly so;
    two of them span both. No further product is needed.
    """
    value = float(product_P @ vector_P)
    alone = (value, vector_P, float((product_P - value * vector_P).norm()))
    if last is None:
        return alone
    share = vector_P @ last[0]
    rest_P = last[0] - share * vector_P
    length = float(rest_P.norm())
    if length < 1e-2:  # nearly parallel: rounding would decide
        return alone
    basis_2P = torch.stack([vector_P, rest_P / length])
    images_2P = torch.stack([product_P, (last[1] - share * product_P) / length])
    matrix = basis_2P @ images_2P.T
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    place = int(values.abs().argmax())
    found, found_P = float(values[place]), vectors[:, place] @ basis_2P
    residual = float((vectors[:, place] @ images_2P - found * found_P).norm())
    return (found, found_P, residual) if residual < alone[2] else alone


def _without(vector_P: Tensor, others: Sequence[Tensor]) -> Tensor:
    """The part at right angles to every one of ``others``, which are so to each other."""
    for other in others:
        vector_P = vector_P - (vector_P @ other) * other
    return vector_P


def _unit(vector_P: Tensor) -> Tensor:
    unit: Tensor = vector_P / vector_P.norm().clamp_min(torch.finfo(vector_P.dtype).tiny)
    return unit


def _start(hessian: Hessian, seed: int) -> Tensor:
    """Gaussian, drawn on the CPU so that it is the same on every device."""
    first = hessian.parameters[0]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(hessian.size, generator=generator, dtype=first.dtype).to(first.device)


def _flat(found: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Tensor:
    """One vector (P,); a weight without a second derivative counts as 0."""
    parts = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
    return torch.cat([part.flatten() for part in parts])
