"""Keep BatchNorm's running statistics still during a pass that must leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
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
