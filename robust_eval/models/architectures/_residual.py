"""Post-activation residual blocks, as in kuangliu/pytorch-cifar and torchvision; ``resnet`` stacks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.models.architectures._activations import Function

Shortcut = Literal["conv", "pad", "append"]
SHORTCUTS = ("conv", "pad", "append")
USUAL_WIDTH = 64
"""Channels of the first stage to which ``base_width`` relates."""


@dataclass(frozen=True)
class BlockStyle:
    """What the blocks of a network have in common."""

    activation: Function
    shortcut: Shortcut = "conv"
    """Where the shape changes: a 1x1 convolution with BN; or every second pixel, with channels of zeros on
    both sides (``pad``, akamaster/pytorch_resnet_cifar10) or at the end (``append``)."""
    groups: int = 1
    base_width: int = USUAL_WIDTH
    """Channels of a group of the 3x3 convolution in bottlenecks with 64 planes."""
    expansion: int = 4
    """Output channels of bottlenecks per plane."""
    stride_first: bool = False
    """The stride of bottlenecks in the first convolution, as in the first code of He et al. 2016."""


class PaddedShortcut(nn.Module):
    """Every second pixel, with channels of zeros (option A of He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.stride, added = stride, outputs - inputs
        before = added // 2 if shortcut == "pad" else 0
        self.around = (0, 0, 0, 0, before, added - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.around)


def make_shortcut(inputs: int, outputs: int, stride: int, style: BlockStyle) -> nn.Module:
    """The skip connection of a block."""
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    if style.shortcut != "conv":
        return PaddedShortcut(inputs, outputs, stride, style.shortcut)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, style: BlockStyle) -> None:
        super().__init__()
        self.activation, self.outputs = style.activation, planes
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = make_shortcut(inputs, planes, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.activation(out + self.shortcut(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, style: BlockStyle) -> None:
        super().__init__()
        self.activation, self.outputs = style.activation, planes * style.expansion
        first, second = (stride, 1) if style.stride_first else (1, stride)
        inner = planes * style.base_width // USUAL_WIDTH * style.groups
        self.conv1 = nn.Conv2d(inputs, inner, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, second, 1, groups=style.groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, self.outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(self.outputs)
        self.shortcut = make_shortcut(inputs, self.outputs, stride, style)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.activation(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.activation(out + self.shortcut(x))
