"""DenseNet for small images (Huang et al. 2017), as in kuangliu/pytorch-cifar: ``densenet-121`` and others.

3x3 stem without pooling; four stages of bottlenecks, each of which adds ``growth`` channels before those of
its input; between stages a 1x1 convolution halves the channels, and 2x2 average pooling the image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, count_children, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, Function, activation_function

IDS = ("densenet-121",)
ALIASES = ((r"^(?:fc|classifier)\.", "linear."),)

_BLOCKS = {121: (6, 12, 24, 16), 161: (6, 12, 36, 24), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}
_GROWTH = 12
_BOTTLENECK = 4
_STAGES = 4


class DenseBlock(nn.Module):
    def __init__(self, inputs: int, growth: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, _BOTTLENECK * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(_BOTTLENECK * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.activation(self.bn1(x)))
        return torch.cat([self.conv2(self.activation(self.bn2(out))), x], 1)


class Transition(nn.Module):
    def __init__(self, inputs: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, inputs // 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(self.activation(self.bn(x))), 2)


class DenseNet(nn.Module):
    def __init__(
        self, blocks: Sequence[int], classes: int, channels: int, growth: int, activation: Function
    ) -> None:
        super().__init__()
        self.activation, planes = activation, 2 * growth
        self.conv1 = nn.Conv2d(channels, planes, 3, 1, 1, bias=False)
        dense: list[nn.Module] = []
        transitions: list[nn.Module] = []
        for stage, count in enumerate(blocks):
            dense.append(
                nn.Sequential(*(DenseBlock(planes + i * growth, growth, activation) for i in range(count)))
            )
            planes += count * growth
            if stage < _STAGES - 1:
                transitions.append(Transition(planes, activation))
                planes //= 2
        self.dense1, self.dense2, self.dense3, self.dense4 = dense
        self.trans1, self.trans2, self.trans3 = transitions
        self.bn = nn.BatchNorm2d(planes)
        self.linear = nn.Linear(planes, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = self.trans1(self.dense1(self.conv1(x)))
        out = self.dense4(self.trans3(self.dense3(self.trans2(self.dense2(out)))))
        out = self.activation(self.bn(out))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    match = re.fullmatch(r"densenet-(\d+)", arch_id)
    return {"depth": int(match[1])} if match and int(match[1]) in _BLOCKS else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],
    depth: int = 121,
    growth: int = _GROWTH,
    activation: str = RELU,
) -> nn.Module:
    """``growth``: channels that a block adds: 12 (``densenet_cifar``), 32 or 48."""
    if min(image_size) < 2 ** (_STAGES - 1):
        height, wide = image_size
        raise UserError(f"densenet-{depth} needs images of at least 8x8, got {height}x{wide}.")
    return DenseNet(_BLOCKS[depth], classes, channels, growth, activation_function(activation))


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    if not stem or not head or "dense1.0.conv1.weight" not in shapes or "trans1.conv.weight" not in shapes:
        return None
    blocks = tuple(count_children(shapes, f"dense{stage + 1}") for stage in range(_STAGES))
    depth = next((depth for depth, counts in _BLOCKS.items() if counts == blocks), 121)
    arguments = non_default({"growth": stem[0] // 2}, {"growth": _GROWTH})
    return Inferred(Architecture(f"densenet-{depth}", arguments), head[0], stem[1], variants=VARIANTS)
