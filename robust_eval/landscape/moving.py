"""A copy of a model that goes for a walk; the original stays home.

The weights of the copy are set to w + v, always from the original's w: nothing is ever subtracted, and
an interruption at any moment costs the copy alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_eval.errors import UserError
from robust_eval.landscape.directions import Vector, movable
from robust_eval.models.accelerate import frozen
from robust_eval.models.normalised import Normalised

Step = tuple[Vector, float]
"""A direction and how far along it."""


class Moving:
    """``model`` (float32, on its device) is read and never written.

    The copy is channels-last, in eval mode and frozen. BatchNorm is not folded into it, because the
    weights still move.
    """

    def __init__(self, model: Normalised, name: str) -> None:
        self.home = movable(model.network)
        if not self.home:
            raise UserError(f"{name} has no weight with more than one dimension, so nothing can be moved.")
        self.search = frozen(model)
        named = dict(self.search.network.named_parameters())
        self._parameters = {key: named[f"network.{key}"] for key in self.home}

    @torch.no_grad()
    def place(self, steps: Sequence[Step] = ()) -> None:
        """Set the copy's weights to w + the sum of the steps; exactly w without any."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.home[name])
            for direction, size in steps:
                parameter.add_(direction[name], alpha=size)

    def logits(self, x_NCHW: Tensor) -> Tensor:
        """``logits_NK`` at the weights as they stand, without gradients."""
        with torch.no_grad():
            found: Tensor = self.search(x_NCHW)
        return found

    def gradient(self, x_NCHW: Tensor, y_N: Tensor) -> Vector:
        """Of the mean cross-entropy over the batch with respect to the weights as they stand, eval mode."""
        parameters = self._parameters
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = cross_entropy(self.search.network(x_NCHW), y_N)
                found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        finally:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
        return {
            name: torch.zeros_like(parameter) if slope is None else slope
            for (name, parameter), slope in zip(parameters.items(), found, strict=True)
        }
