"""The gradient of a model with respect to its input, also of a model that has none."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_or_zero(leaf: Tensor, logits_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """The gradient of ``(logits * weights).sum()`` at ``leaf``, shaped like it; 0 if there is none."""
    if not logits_NK.requires_grad:
        return torch.zeros_like(leaf)
    (gradient,) = torch.autograd.grad(logits_NK, leaf, weights_NK.to(logits_NK), allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient
