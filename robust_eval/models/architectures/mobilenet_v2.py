"""MobileNetV2 for small images (Sandler et al. 2018), as in kuangliu/pytorch-cifar.

3x3 stem of stride 1; 17 inverted residuals, of which three have stride 2; ReLU in place of ReLU6. Skip
connections have a 1x1 convolution where the channels change and the stride is 1. The MobileNetV2 of
torchvision has other names: ``--arch torchvision:mobilenet_v2``.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes
from robust_eval.models.architectures._activations import RELU, VARIANTS, Function, activation_function

IDS = ("mobilenet-v2",)
ALIASES = ((r"^(?:fc|classifier)\.", "linear."),)

_STEM, _LAST = 32, 1280
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, output channels, blocks and the stride of the first block."""


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, activation: Function) -> None:
        super().__init__()
        self.activation, self.skips = activation, stride == 1
        planes = expansion * inputs
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, groups=planes, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if self.skips and inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.activation(self.bn2(self.conv2(out)))
        change: Tensor = self.bn3(self.conv3(out))
        return change + self.shortcut(x) if self.skips else change


class MobileNetV2(nn.Module):
    def __init__(self, classes: int, channels: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, _STEM, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        inputs, layers = _STEM, []
        for expansion, outputs, count, stride in _STAGES:
            for number in range(count):
                layers.append(
                    InvertedResidual(inputs, outputs, expansion, stride if number == 0 else 1, activation)
                )
                inputs = outputs
        self.layers = nn.Sequential(*layers)
        self.conv2 = nn.Conv2d(inputs, _LAST, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(_LAST)
        self.linear = nn.Linear(_LAST, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = self.layers(self.activation(self.bn1(self.conv1(x))))
        out = self.activation(self.bn2(self.conv2(out)))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    return {} if arch_id == "mobilenet-v2" else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    activation: str = RELU,
) -> nn.Module:
    return MobileNetV2(classes, channels, activation_function(activation))


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    if not stem or not head or "layers.0.conv3.weight" not in shapes or "conv2.weight" not in shapes:
        return None
    return Inferred(Architecture("mobilenet-v2"), head[0], stem[1], variants=VARIANTS)
