"""Find a memory of images, also one that the copies of a model share: in a global, a closure or a file.

The images are random mixtures that no process has shown to the model before. The change of the logits to a
near image is as large as the gradient promises, whether that image is shown in the same call or in the next.
A model that remembers the first image answers the second as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from robust_eval.models import out_of_memory
from robust_eval.models.isolation import Isolated

STEP = 1e-3
"""Size of the change of each pixel."""
_DIRECTIONS = 8
"""Random changes of an image, of which the one with the largest promise is made."""
_LEAST = 32
"""Images of the call in which gradients are compared with changes."""
_RIGHT = (0.8, 1.25)
"""Share of the promised change, within a call, of half of the images if gradients predict it."""


def change_in_next_call(model: nn.Module, x_NCHW: Tensor, sizes: Sequence[int]) -> float:
    """How much of the change that gradients promise is seen from one call to the next; about 1 if all is.

    At most this much of two fifths of the images: the lowest value of several pairs of calls, with ``sizes``
    images each, in this order; fewer if memory is short. 1 also if gradients do not predict the change within
    a call, so that nothing can be compared, and for fewer than four images. The model itself is called; pass
    a copy.
    """
    if len(x_NCHW) < 4:
        return 1.0
    isolated, images = Isolated(model), _Images(x_NCHW)
    share, predicted = partial(_share_in_next_call, isolated, images), partial(_predicted, isolated, images)
    shares = [out_of_memory.with_fewer(share, rows, least=7) for rows in sizes]
    if not out_of_memory.with_fewer(predicted, max(*sizes, _LEAST), least=7):
        return 1.0
    return min(shares)


def _share_in_next_call(model: nn.Module, images: _Images, rows: int) -> float:
    """The change from a call to the next, divided by the promised one; of an image of the lower two fifths.

    1 without gradients. Directions of little promise, whose quotients vary most, are not taken.
    """
    first = images.mixtures(rows)
    gap, classes, gradients = _gap_and_gradient(model, first, rows)
    if gradients is None:
        return 1.0
    direction = images.signs(first)
    for other in (images.signs(first) for _ in range(_DIRECTIONS - 1)):
        larger = (gradients * other).flatten(1).sum(1).abs() > (gradients * direction).flatten(1).sum(1).abs()
        direction[larger] = other[larger]
    with torch.no_grad():
        changes = (_gap(model(first + STEP * direction), classes) - gap).double()
    promised = STEP * (gradients * direction).flatten(1).double().sum(1)
    shares = (changes / promised)[promised != 0]
    return float(shares.abs().quantile(0.4)) if len(shares) else 1.0


def _predicted(model: nn.Module, images: _Images, rows: int) -> bool:
    """Whether gradients predict the change between two images of one call, for half of the pairs."""
    first = images.mixtures(max(1, rows // 2))
    second = first + STEP * images.signs(first)
    gap, _, gradients = _gap_and_gradient(model, torch.cat([first, second]), len(first))
    if gradients is None:
        return False
    before, after = gap.split(len(first))
    promised = (gradients * (second - first)).flatten(1).double().sum(1)
    shares = ((after - before).double() / promised)[promised != 0]
    # Comparisons with NaN are false.
    return bool(len(shares) and _RIGHT[0] < shares.quantile(0.25) and shares.quantile(0.75) < _RIGHT[1])


def _gap_and_gradient(model: nn.Module, images: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """(gap, classes, gradient): the difference of two logits (N,), which are the largest ones of the first
    ``rows`` images, in this order again and again; their classes (N, 2), and the gradient for those rows.
    """
    leaf = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        classes = logits.detach()[:rows].topk(2, 1).indices
        gap = _gap(logits, classes.repeat(len(images) // rows, 1))
        if not gap.requires_grad:
            return gap, classes, None
        (found,) = torch.autograd.grad(gap[:rows].sum(), leaf, allow_unused=True)
    return gap.detach(), classes, None if found is None else found[:rows]


def _gap(logits_NK: Tensor, classes_N2: Tensor) -> Tensor:
    first, second = logits_NK.gather(1, classes_N2).unbind(1)
    return first - second


class _Images:
    """Random images that no process has shown to the model before."""

    def __init__(self, x_NCHW: Tensor) -> None:
        self._x, self._generator = x_NCHW, torch.Generator()
        self._generator.seed()

    def mixtures(self, rows: int) -> Tensor:
        """``rows`` mixtures of two random images each, one of them moved by random numbers of pixels, on the
        8-bit grid, in [1/255, 254/255].
        """
        x, one, other = self._x, self._whole(len(self._x), rows), self._whole(len(self._x), rows)
        shifts = [int(self._whole(side, 1)) for side in x.shape[2:]]
        weights = (0.3 + 0.4 * torch.rand(rows, 1, 1, 1, generator=self._generator)).to(x)
        mixtures = weights * x[one] + (1 - weights) * x[other].roll(shifts, (2, 3))
        return (255 * mixtures).round().clamp(1, 254) / 255

    def signs(self, like: Tensor) -> Tensor:
        """-1 or 1 for each pixel of images like these."""
        return 2 * torch.randint(0, 2, like.shape, generator=self._generator).to(like) - 1

    def _whole(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator).to(self._x.device)
