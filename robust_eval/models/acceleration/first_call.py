"""What a model answered in the first call of an attack."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

IMAGES = 16
"""Images of the call that are kept."""


@dataclass
class FirstCall:
    """The first images of a call, with the logits; with the gradient once it has been computed."""

    x_NCHW: Tensor
    logits_NK: Tensor
    weights_NK: Tensor | None = None
    """The gradient is that of ``(logits * weights).sum()``."""
    gradient_NCHW: Tensor | None = None


def first_images(x_NCHW: Tensor, logits_NK: Tensor) -> FirstCall:
    """The call without a gradient; the tensors are copied."""
    return FirstCall(x_NCHW[:IMAGES].detach().clone(), logits_NK[:IMAGES].detach().clone())
