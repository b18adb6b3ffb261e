"""Honest networks, trained and changed by nobody: the stuff that plants are made of.

All map 8x8 grey images in [0, 1] to ten logits and need no training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """A small convolutional network with a fixed random initialisation: nothing to flag."""

    def __init__(self, normalise: bool = False, width: int = 8) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            norm = nn.BatchNorm2d(width) if normalise else nn.Identity()
            self.body = nn.Sequential(
                nn.Conv2d(1, width, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(width, 8, 3, 2, 1), nn.ReLU()
            )
            self.head = nn.Linear(8 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).flatten(1))
        return logits


class SmallNetworkWithBatchNorm(SmallNetwork):
    def __init__(self) -> None:
        super().__init__(normalise=True)


class ModifiedNetwork(nn.Module):
    """A network with something done to its input or output; the honest one unless another is given."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or SmallNetwork()

    def before(self, x: Tensor) -> Tensor:
        return x

    def after(self, z: Tensor) -> Tensor:
        return z

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.network(self.before(x)))


class LogSoftmax(ModifiedNetwork):
    """Harmless: the same gradients of every loss that is used here."""

    def after(self, z: Tensor) -> Tensor:
        return z.log_softmax(1)


class SmallLogits(ModifiedNetwork):
    """Harmless: signs and normalised gradients do not know the scale."""

    def after(self, z: Tensor) -> Tensor:
        return z / 10_000


class NegligibleNoise(ModifiedNetwork):
    """Harmless: below float32's own rounding."""

    def before(self, x: Tensor) -> Tensor:
        return x + 1e-7 * torch.randn_like(x)
