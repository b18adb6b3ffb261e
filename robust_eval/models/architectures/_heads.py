"""The last layer: linear, or the cosine of features and class weights (``head`` argument of architectures).

A cosine head has the tensors of a linear one without bias, and statistics of images do not tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import UserError, unknown
from robust_eval.models.architectures import Shapes

Head = Literal["linear", "cosine"]
MakeHead = Callable[[int, int], nn.Linear]
"""From the numbers of features and classes to the layer."""
HEADS = ("linear", "cosine")


class CosineHead(nn.Linear):
    """``scale`` times the cosine of the angle between the features and the weights of each class.

    Pang et al. 2020 (Boosting Adversarial Training with Hypersphere Embedding), equation 4. RobustBench's
    Pang2020Boosting has ``scale`` 1; in training it is 15 to 30. A scale does not change predictions.
    """

    def __init__(self, features: int, classes: int, scale: float) -> None:
        super().__init__(features, classes, bias=False)
        self.scale = scale

    def forward(self, x_NF: Tensor) -> Tensor:
        """Features to ``logits_NK``."""
        return self.scale * F.linear(F.normalize(x_NF), F.normalize(self.weight))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scale={self.scale:g}"


def make_head(head: str, *, bias: bool, scale: float) -> MakeHead:
    """The constructor of the last layer; ``scale`` is only used by a cosine head, which has no bias.

    Raises:
        UserError: for an unknown head, and a scale that is not positive.
    """
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    if not scale > 0:
        raise UserError(f"The scale of a head must be positive, not {scale:g}.")
    return partial(CosineHead, scale=scale) if head == "cosine" else partial(nn.Linear, bias=bias)


def biasless(shapes: Shapes, layer: str) -> str | None:
    """For :attr:`~robust_eval.models.architectures.Inferred.biasless_head`."""
    return None if f"{layer}.bias" in shapes else f"{layer}.weight"
