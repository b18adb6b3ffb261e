"""A copy of a model that goes for a walk; the original stays home.

The weights of the copy are set to w + v, always from the original's w: nothing is ever subtracted, and
an interruption at any moment costs the copy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_eval.core.errors import UserError
from robust_eval.core.types import FLOAT32
from robust_eval.landscape.directions import Vector, movable
from robust_eval.models.acceleration.frozen_copy import AttackCopy, make_attack_copy
from robust_eval.models.acceleration.tuning import default_tuning
from robust_eval.models.normalisation import Normalised

Step = tuple[Vector, float]
"""A direction and how far along it."""


class Moving:
    """``model`` (float32, on its device) is read and never written.

    The copy that walks is float32, channels-last, in eval mode and frozen: losses are measured on it. What
    attacks search on is made from it wherever it stands, so that BatchNorm can be folded there and the
    precision be lower: weights that still move allow neither. ``sample_NCHW``: a few images.
    """

    def __init__(self, model: Normalised, name: str, sample_NCHW: Tensor) -> None:
        self.home = movable(model.network)
        if not self.home:
            raise UserError(f"{name} has no weight with more than one dimension, so nothing can be moved.")
        self.sample = sample_NCHW
        self.forwards = self.backwards = 0
        self._walker = make_attack_copy(
            model, tuning=default_tuning(sample_NCHW.device, sample_NCHW.shape[1:].numel())
        )
        named = dict(self._walker.network.named_parameters())
        self._parameters = {key: named[f"network.{key}"] for key in self.home}
        self._attack_copies: dict[str, AttackCopy] = {}

    @torch.no_grad()
    def place(self, steps: Sequence[Step] = ()) -> None:
        """Set the copy's weights to w + the sum of the steps; exactly w without any."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.home[name])
            for direction, size in steps:
                parameter.add_(direction[name], alpha=size)
        self._attack_copies.clear()

    def state(self) -> Vector:
        """The weights as they stand, by name."""
        return self._parameters

    def logits(self, x_NCHW: Tensor) -> Tensor:
        """``logits_NK`` float32 at the weights as they stand, without gradients."""
        self.forwards += len(x_NCHW)
        with torch.no_grad():
            found: Tensor = self._walker(x_NCHW)
        return found

    def attacked(self, search: Callable[[AttackCopy], Tensor], precision: str = FLOAT32) -> Tensor:
        """What ``search`` finds with the network as it stands, in a precision."""
        if precision not in self._attack_copies:
            self._attack_copies[precision] = make_attack_copy(
                self._walker.network, sample=self.sample, precision=precision
            )
        attack_copy = self._attack_copies[precision]
        attack_copy.reset_counts()
        found = search(attack_copy)
        self.forwards += attack_copy.forwards
        self.backwards += attack_copy.backwards
        return found.detach().float()

    def gradient(self, x_NCHW: Tensor, y_N: Tensor) -> Vector:
        """Of the mean cross-entropy over the batch with respect to the weights as they stand, eval mode."""
        parameters = self._parameters
        self.forwards, self.backwards = self.forwards + len(y_N), self.backwards + len(y_N)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = cross_entropy(self._walker.network(x_NCHW), y_N)
                found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        finally:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
        return {
            name: torch.zeros_like(parameter) if slope is None else slope
            for (name, parameter), slope in zip(parameters.items(), found, strict=True)
        }
