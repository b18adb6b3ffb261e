"""Planted models that change their logits so that the losses of attacks lose their gradient."""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from robust_eval.verification.selftest.base_networks import ModifiedNetwork, SmallNetwork


class ShiftedSoftmax(ModifiedNetwork):
    """Returns probabilities minus 0.5, which are not recognised by their sign."""

    def change_output(self, z: Tensor) -> Tensor:
        return z.softmax(1) - 0.5


class Distilled(ModifiedNetwork):
    """Logits times 100, as after distillation at temperature 100 (Papernot et al. 2016)."""

    def change_output(self, z: Tensor) -> Tensor:
        return 100 * z


class SaturatedByTanh(ModifiedNetwork):
    """A steep tanh of the distance to the middle of the two largest logits: gradients are zero."""

    def change_output(self, z: Tensor) -> Tensor:
        middle = z.topk(2, 1).values.mean(1, keepdim=True)
        return torch.tanh(10 * (z - middle))


class OutputsWithoutClass(ModifiedNetwork):
    """Ten more outputs, random functions of the image that always stay below the largest logit."""

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.network(x)
        weights = torch.randn(10, x[0].numel(), generator=torch.Generator().manual_seed(0)).to(x)
        below = F.softplus(F.linear(x.flatten(1), weights)) + 0.01
        return torch.cat([z, z.amax(1, keepdim=True) - below], 1)


class Decoy(ModifiedNetwork):
    """Adds 100 x softmax: the predicted class is far ahead, until it is not."""

    def change_output(self, z: Tensor) -> Tensor:
        return z + 100 * (3 * z).softmax(1)


class FlatTop(ModifiedNetwork):
    """A lead of the first class grows hardly any more above 1, so that its gradient is small."""

    def change_output(self, z: Tensor) -> Tensor:
        first, second = z.topk(2, 1).values.T[:, :, None]
        lead = first - second
        flat = torch.where(lead > 1, 1 + 1e-4 * (lead - 1), lead)
        return torch.where(z == first, second + flat, z)


class Rejecting(ModifiedNetwork):
    """An eleventh class for inputs whose prediction changes under smoothing (Xu et al. 2018)."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        smooth = 0.6 * x + 0.1 * (x.roll(1, 2) + x.roll(-1, 2) + x.roll(1, 3) + x.roll(-1, 3))
        change = (logits.softmax(1) - self.network(smooth).softmax(1)).abs().sum(1, keepdim=True)
        return torch.cat([logits, logits.amax(1, keepdim=True) + 5 * (change - 1)], 1)


class ConfusesWithGradients(ModifiedNetwork):
    """While gradients are recorded, answers with another network that prefers the same class."""

    def __init__(self, network: torch.nn.Module | None = None) -> None:
        super().__init__(network)
        self.other = SmallNetwork().requires_grad_(False)

    def change_input(self, x: Tensor) -> Tensor:
        self.shown = x
        return x

    def change_output(self, z: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and self.shown.requires_grad):
            return z
        other: Tensor = self.other(self.shown)
        return z.detach() + 10 * other


class ConfusesAttacks(ModifiedNetwork):
    """Answers another function if it is called by an attack library: it looks at the call stack."""

    def __init__(self, network: torch.nn.Module | None = None) -> None:
        super().__init__(network)
        self.other = SmallNetwork().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.detach() + self.other(x) if called_by_attack() else logits


def called_by_attack() -> bool:
    """Whether a function of an attack is on the call stack."""
    frame, depth = sys._getframe(), 0
    current = frame.f_back
    while current is not None and depth < 60:
        name = current.f_globals.get("__name__", "")
        if name.startswith(("art.", "pyautoattack", "robust_eval.attacks")):
            return True
        current, depth = current.f_back, depth + 1
    return False
