"""BatchNorm: passes that do not change the running statistics, and statistics over several processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as processes
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Train-mode passes inside normalise by the batch's statistics and do not update the running ones."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@contextmanager
def restored_statistics(network: nn.Module) -> Iterator[None]:
    """Like :func:`frozen_statistics`, by copying the buffers: a changed flag would trigger recompilation."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)


class _Sum(torch.autograd.Function):
    """The sum over processes, also of gradients: every process's loss depends on every addend."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.clone()
        processes.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        processes.all_reduce(summed)
        return summed


class _Synchronised(_BatchNorm):
    """Normalises by mean and variance of the joined batch of all processes, on any device.

    torch's SyncBatchNorm needs CUDA and also synchronises in the passes of the attack.
    """

    synchronise = True

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (N, C) or (N, C, H, W)."""
        if not (self.training and self.synchronise):
            return super().forward(x)
        dimensions = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        wide = x.float()
        # Centred at the running mean: E[x^2] - E[x]^2 would lose digits otherwise.
        centre = self.running_mean if self.running_mean is not None else torch.zeros_like(wide[0, :, 0])
        centre = centre.detach().clone()
        centred = wide - centre.view(shape)
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = _Sum.apply(torch.cat([centred.sum(dimensions), centred.square().sum(dimensions), count]))
        total, (first, second) = sums[-1].detach(), sums[:-1].view(2, -1) / sums[-1].detach()
        variance = second - first.square()
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._update_running(
                first.detach() + centre, variance.detach() * total / (total - 1).clamp_min(1)
            )
        normalised = (centred - first.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        out: Tensor = normalised.to(x.dtype)
        return out

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Synchronised1d(_Synchronised, nn.BatchNorm1d): ...


class _Synchronised2d(_Synchronised, nn.BatchNorm2d): ...


def synchronise_batchnorm(network: nn.Module) -> None:
    """Make the network's BatchNorm layers use the joined batch, in place; the state dict is unchanged."""
    kinds: dict[type, type] = {nn.BatchNorm1d: _Synchronised1d, nn.BatchNorm2d: _Synchronised2d}
    for layer in network.modules():
        if type(layer) in kinds:
            layer.__class__ = kinds[type(layer)]


@contextmanager
def unsynchronised(network: nn.Module) -> Iterator[None]:
    """Passes inside do not synchronise: each process normalises by its own images."""
    layers = [layer for layer in network.modules() if isinstance(layer, _Synchronised)]
    for layer in layers:
        layer.synchronise = False
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronise = True
