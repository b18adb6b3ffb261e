"""BatchNorm: running statistics kept still during a pass that must leave no trace, and statistics of a
batch that is spread over several processes.
"""

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
    """Train-mode forwards inside use the batch's statistics and write no buffer, without any copy."""
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
    """The same result by a copy, for compiled code: a changed flag would have it compiled anew."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False)]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, saved, strict=True):
            buffer.copy_(value)


class _Sum(torch.autograd.Function):
    """The sum over processes, forwards and backwards: every process's loss depends on every addend."""

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
    """Normalises by mean and variance of all processes' images together, on any device.

    torch's own SyncBatchNorm needs CUDA, and synchronises in every pass: the attack's must not.
    """

    synchronise = True

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (N, C) or (N, C, H, W)."""
        if not (self.training and self.synchronise):
            return super().forward(x)
        dimensions = [d for d in range(x.dim()) if d != 1]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        wide = x.float()
        # Around the running mean, so that no digits are lost to E[x^2] - E[x]^2.
        around = self.running_mean if self.running_mean is not None else torch.zeros_like(wide[0, :, 0])
        around = around.detach().clone()
        moved = wide - around.view(shape)
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = _Sum.apply(torch.cat([moved.sum(dimensions), moved.square().sum(dimensions), count]))
        total, (first, second) = sums[-1].detach(), sums[:-1].view(2, -1) / sums[-1].detach()
        variance = second - first.square()
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self._remember(first.detach() + around, variance.detach() * total / (total - 1).clamp_min(1))
        normalised = (moved - first.view(shape)) * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        out: Tensor = normalised.to(x.dtype)
        return out

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class _Synchronised1d(_Synchronised, nn.BatchNorm1d): ...


class _Synchronised2d(_Synchronised, nn.BatchNorm2d): ...


def synchronised(network: nn.Module) -> None:
    """Have the network's BatchNorm layers see the whole batch; names and tensors stay what they are."""
    kinds: dict[type, type] = {nn.BatchNorm1d: _Synchronised1d, nn.BatchNorm2d: _Synchronised2d}
    for layer in network.modules():
        if type(layer) in kinds:
            layer.__class__ = kinds[type(layer)]


@contextmanager
def unsynchronised(network: nn.Module) -> Iterator[None]:
    """Passes inside do not wait for other processes: each normalises by its own images."""
    layers = [layer for layer in network.modules() if isinstance(layer, _Synchronised)]
    for layer in layers:
        layer.synchronise = False
    try:
        yield
    finally:
        for layer in layers:
            layer.synchronise = True
