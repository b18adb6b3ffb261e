"""Planted models that change the activations or the precision of a network, most published as defenses.

The changes are made after every ReLU module of a copy of the network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robust_eval.verification.selftest.base_networks import ModifiedNetwork

Change = Callable[[Tensor], Tensor]


class ChangedFeatures(ModifiedNetwork):
    """A copy of a network whose activations after each ReLU are replaced by ``change`` of them."""

    def __init__(self, network: nn.Module, change: Change) -> None:
        super().__init__(copy.deepcopy(network))
        for module in self.network.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_hook(partial(_changed, change))


def k_winners_take_all(network: nn.Module) -> nn.Module:
    """Only the largest 40% of each layer's activations are passed on (k-WTA, Xiao et al. 2020)."""
    return ChangedFeatures(network, _winners)


def stochastic_activation_pruning(network: nn.Module) -> nn.Module:
    """Activations are drawn with a probability in proportion to their size (SAP, Dhillon et al. 2018)."""
    return ChangedFeatures(network, _pruned)


class MeanSparse(ModifiedNetwork):
    """Activations near the channel's mean over some images are set to it (MeanSparse, Amini et al. 2024)."""

    def __init__(self, network: nn.Module, x_NCHW: Tensor, width: float = 0.4) -> None:
        """``width``: of the interval set to the mean, in standard deviations on each side."""
        super().__init__(copy.deepcopy(network))
        layers = [module for module in self.network.modules() if isinstance(module, nn.ReLU)]
        seen: list[Tensor] = []
        recorders = [layer.register_forward_hook(lambda _m, _i, out: seen.append(out)) for layer in layers]
        with torch.no_grad():
            self.network(x_NCHW)
        for recorder in recorders:
            recorder.remove()
        for layer, activations in zip(layers, seen, strict=True):
            axes = [axis for axis in range(activations.dim()) if axis != 1]
            mean, std = activations.mean(axes, keepdim=True), activations.std(axes, keepdim=True)
            layer.register_forward_hook(partial(_changed, partial(_mean_near_mean, mean, width * std)))


class LowPrecision(ModifiedNetwork):
    """Computes in float16 or bfloat16; images and logits are float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(copy.deepcopy(network).to(dtype))
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.to(self.dtype))
        return logits.float()


class EightBitFeatures(ChangedFeatures):
    """Weights and activations rounded to 8 bits, with the identity as gradient (Lin et al. 2019)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, _eight_bits)
        with torch.no_grad():
            for weights in self.network.parameters():
                weights.copy_(_eight_bits(weights))


def _changed(change: Change, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return change(output)


def _winners(activations: Tensor) -> Tensor:
    flat = activations.flatten(1)
    least = flat.topk(max(1, flat.shape[1] * 4 // 10), 1).values[:, -1:]
    return (flat * (flat >= least)).view_as(activations)


def _pruned(activations: Tensor) -> Tensor:
    """As many draws with replacement as there are activations; those drawn are scaled up."""
    flat = activations.flatten(1)
    share = flat.abs() / flat.abs().sum(1, keepdim=True).clamp_min(1e-12)
    kept = 1 - (1 - share.clamp(0, 1)).pow(flat.shape[1])
    drawn = torch.rand_like(flat) < kept
    return (flat * drawn / kept.clamp_min(1e-6)).view_as(activations)


def _mean_near_mean(mean: Tensor, width: Tensor, activations: Tensor) -> Tensor:
    return torch.where((activations - mean).abs() < width, mean.expand_as(activations), activations)


def _eight_bits(values: Tensor) -> Tensor:
    """With a step for each image (or row of weights), so that images do not depend on the batch."""
    step = values.detach().abs().amax(tuple(range(1, values.dim())), keepdim=True).clamp_min(1e-12) / 127
    return values + ((values / step).round() * step - values).detach()
