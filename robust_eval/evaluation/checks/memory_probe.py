"""Find a memory of images, also one that the copies of a model share: in a global, a closure or a file.

The images are random mixtures that no process has shown to the model before. The change of the logits to a
near image is as large as the gradient promises, whether that image is shown in the same call or in the next.
A model that remembers the first image answers the second as before.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_eval.models import out_of_memory
from robust_eval.models.isolation import Isolated

STEP = 1e-3
"""Size of the change of each pixel."""
_RIGHT = (0.8, 1.25)
"""Share of the promised change, within a call, of half of the images if gradients predict it."""


def change_in_next_call(model: nn.Module, x_NCHW: Tensor, rows: int) -> float:
    """How much of the change that is seen within a call is seen from one call to the next; 1 for most models.

    Of the median image. 1 also if gradients do not predict the change within a call, so that nothing can be
    compared, and for fewer than four images. ``rows``: images per call, fewer if memory is short. The model
    itself is called; pass a copy.
    """
    if len(x_NCHW) < 4:
        return 1.0
    isolated = Isolated(model)
    return out_of_memory.with_fewer(lambda n: _change_in_next_call(isolated, x_NCHW, n), rows, least=7)


def _change_in_next_call(model: nn.Module, x: Tensor, rows: int) -> float:
    within = _shares_of_promise(model, *_near_pairs(x, max(1, rows // 2)), together=True)
    if not len(within) or not _RIGHT[0] < within.quantile(0.25) <= within.quantile(0.75) < _RIGHT[1]:
        return 1.0
    between = _shares_of_promise(model, *_near_pairs(x, rows), together=False)
    return float(between.median() / within.median()) if len(between) else 1.0


def _shares_of_promise(model: nn.Module, first: Tensor, second: Tensor, *, together: bool) -> Tensor:
    """The change of the two largest logits' difference from the first images to the second ones, divided by
    the change that the gradient promises (N,); empty without gradients.
    """
    none = torch.zeros(0, dtype=torch.float64)
    n, leaf = len(first), (torch.cat([first, second]) if together else first).requires_grad_()
    with torch.enable_grad():
        logits = model(leaf)
        if not logits.requires_grad:
            return none
        classes = logits.detach()[:n].topk(2, 1).indices
        gap = _gap(logits[:n], classes)
        gradients = torch.autograd.grad(gap.sum(), leaf, allow_unused=True)
    if any(found is None for found in gradients):
        return none
    with torch.no_grad():
        moved = _gap(logits[n:] if together else model(second), classes)
        promised = (gradients[0][:n].double() * (second - first).double()).flatten(1).sum(1)
        shares: Tensor = (moved - gap).double() / promised
        return shares[promised != 0]


def _gap(logits_NK: Tensor, classes_N2: Tensor) -> Tensor:
    first, second = logits_NK.gather(1, classes_N2).unbind(1)
    return first - second


def _near_pairs(x_NCHW: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """``rows`` mixtures of two random images each, one of them moved by random numbers of pixels, on the
    8-bit grid; and an image near each of them.
    """
    generator = torch.Generator()
    generator.seed()
    chosen = (torch.randint(len(x_NCHW), (rows,), generator=generator).to(x_NCHW.device) for _ in range(2))
    shifts = [int(torch.randint(side, (), generator=generator)) for side in x_NCHW.shape[2:]]
    weights = (0.3 + 0.4 * torch.rand(rows, 1, 1, 1, generator=generator)).to(x_NCHW)
    one, other = (x_NCHW[indices] for indices in chosen)
    mixtures = weights * one + (1 - weights) * other.roll(shifts, (2, 3))
    mixtures = (255 * mixtures).round().clamp(1, 254) / 255
    signs = 2 * torch.randint(0, 2, mixtures.shape, generator=generator).to(x_NCHW) - 1
    return mixtures, mixtures + STEP * signs
