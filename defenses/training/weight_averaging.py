"""An exponential moving average of the weights, which is measured and saved instead of them."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights; the same for BatchNorm's running statistics."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Average in the current weights of ``network``; integer buffers are copied."""
        current = network.state_dict()
        for name, average in self.network.state_dict().items():
            value = current[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - self._decay)
            else:
                average.copy_(value)
