"""Unmodified untrained networks; the planted defects are built on them.

All map 8x8 grey images in [0, 1], (N, 1, 8, 8), to ten logits.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """A small convolutional network with fixed random weights; must raise no flag."""

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
    """The same with BatchNorm; must raise no flag."""

    def __init__(self) -> None:
        super().__init__(normalise=True)


class ModifiedNetwork(nn.Module):
    """A network with a modified input or output; :class:`SmallNetwork` unless another is given."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__()
        self.network = network or SmallNetwork()

    def change_input(self, x: Tensor) -> Tensor:
        """Applied to the input (N, C, H, W)."""
        return x

    def change_output(self, z: Tensor) -> Tensor:
        """Applied to the logits (N, K)."""
        return z

    def forward(self, x: Tensor) -> Tensor:
        return self.change_output(self.network(self.change_input(x)))


class LogSoftmax(ModifiedNetwork):
    """Returns log-softmax outputs; harmless, because the gradients of the attacks' losses do not change."""

    def change_output(self, z: Tensor) -> Tensor:
        return z.log_softmax(1)


class SmallLogits(ModifiedNetwork):
    """Divides the logits by 10,000; harmless, since signs and normalised gradients do not depend on scale."""

    def change_output(self, z: Tensor) -> Tensor:
        return z / 10_000


class NegligibleNoise(ModifiedNetwork):
    """Adds input noise below float32 rounding; harmless."""

    def change_input(self, x: Tensor) -> Tensor:
        return x + 1e-7 * torch.randn_like(x)
