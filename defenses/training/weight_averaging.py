"""An exponential moving average of the weights, judged and saved in their stead."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """``decay`` * average + (1 - decay) * weights after every update; BatchNorm's statistics likewise."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        current = network.state_dict()
        for name, average in self.network.state_dict().items():
            value = current[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - self._decay)
            else:
                average.copy_(value)
