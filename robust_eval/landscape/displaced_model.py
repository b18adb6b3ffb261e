"""A copy of a model whose weights are set to w + v; the original is never modified.

The weights are always computed from the original's w: no displacement is subtracted again, so rounding errors
do not add up and an interruption cannot damage the original.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from robust_eval.core.errors import UserError
from robust_eval.core.types import FLOAT32
from robust_eval.landscape.directions import Vector, perturbable_weights
from robust_eval.models.acceleration.frozen_copy import AttackCopy, make_attack_copy
from robust_eval.models.acceleration.tuning import default_tuning
from robust_eval.models.normalisation import Normalised

ScaledDirection = tuple[Vector, float]
"""A direction and the factor it is multiplied by."""


class DisplacedModel:
    """A float32 copy of ``model`` in eval mode (channels-last, no gradients) at displaced weights.

    Losses are measured on this copy. Attack copies are made from it after each displacement, because folding
    BatchNorm and lowering the precision require fixed weights. ``name`` appears in error messages;
    ``sample_NCHW``: a few images on the model's device, for checking the attack copies. Raises
    :class:`UserError` for a network without weights of more than one dimension.
    """

    def __init__(self, model: Normalised, name: str, sample_NCHW: Tensor) -> None:
        self.weights = perturbable_weights(model.network)
        """The original weights w by parameter name."""
        if not self.weights:
            raise UserError(
                f"{name} has no weight with more than one dimension, so there is nothing to perturb."
            )
        self.sample = sample_NCHW
        self.forwards = self.backwards = 0
        self._copy = make_attack_copy(
            model, tuning=default_tuning(sample_NCHW.device, sample_NCHW.shape[1:].numel())
        )
        named = dict(self._copy.network.named_parameters())
        self._parameters = {key: named[f"network.{key}"] for key in self.weights}
        self._attack_copies: dict[str, AttackCopy] = {}

    @torch.no_grad()
    def displace(self, terms: Sequence[ScaledDirection] = ()) -> None:
        """Set the copy's weights to w plus the sum of the scaled directions; exactly w for no terms."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.weights[name])
            for direction, size in terms:
                parameter.add_(direction[name], alpha=size)
        self._attack_copies.clear()

    def displaced_weights(self) -> Vector:
        """The current weights w + v by name."""
        return self._parameters

    def logits(self, x_NCHW: Tensor) -> Tensor:
        """``logits_NK`` float32 at the current weights, without gradients."""
        self.forwards += len(x_NCHW)
        with torch.no_grad():
            logits_NK: Tensor = self._copy(x_NCHW)
        return logits_NK

    def attack(self, search: Callable[[AttackCopy], Tensor], precision: str = FLOAT32) -> Tensor:
        """Adversarial images (float32) that ``search`` finds at the current weights in a precision."""
        if precision not in self._attack_copies:
            self._attack_copies[precision] = make_attack_copy(
                self._copy.network, sample=self.sample, precision=precision
            )
        attack_copy = self._attack_copies[precision]
        attack_copy.reset_counts()
        x_adv_NCHW = search(attack_copy)
        self.forwards += attack_copy.forwards
        self.backwards += attack_copy.backwards
        return x_adv_NCHW.detach().float()

    def weight_gradient(self, x_NCHW: Tensor, y_N: Tensor) -> Vector:
        """Gradient of the batch's mean cross-entropy with respect to the current weights, in eval mode."""
        parameters = self._parameters
        self.forwards, self.backwards = self.forwards + len(y_N), self.backwards + len(y_N)
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                loss = cross_entropy(self._copy.network(x_NCHW), y_N)
                gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        finally:
            for parameter in parameters.values():
                parameter.requires_grad_(False)
        return {
            name: torch.zeros_like(parameter) if gradient is None else gradient
            for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        }
