"""Post-activation ResNet for small images (He et al. 2015), as in kuangliu/pytorch-cifar and TRADES.

3x3 stem without pooling; stages of ``width * (1, 2, 4, 8)`` channels; a 1x1 convolution with BN as
shortcut where the shape changes; global average pooling, one linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Arguments, Inferred, Shapes, count_children, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, Function, activation_function
from robust_eval.models.architectures._heads import Head, MakeHead, biasless, make_head

IDS = ("resnet-18", "resnet-34", "resnet-50")
# torchvision has the names fc and downsample, Liu et al. 2020 classifier.
ALIASES = (
    (r"^(?:fc|classifier|last_linear|head)\.", "linear."),
    (r"\.downsample\.", ".shortcut."),
)
DEFAULTS = {"width": 64, "bias": True}

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_BOTTLENECK = {50}


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    if stride == 1 and inputs == outputs:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.activation(out + self.shortcut(x))


class Bottleneck(nn.Module):
    expansion = 4
    stride_first = False

    def __init__(self, inputs: int, planes: int, stride: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        first, second = (stride, 1) if self.stride_first else (1, stride)
        self.conv1 = nn.Conv2d(inputs, planes, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.shortcut = _shortcut(inputs, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(self.conv1(x)))
        out = self.activation(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.activation(out + self.shortcut(x))


class StrideFirstBottleneck(Bottleneck):
    """The stride in the first convolution, as in the first code of He et al. 2016."""

    stride_first = True


@dataclass(frozen=True)
class Stem:
    """Stride of the first convolution, and whether max pooling follows it."""

    stride: int
    pool: bool


class ResNet(nn.Module):
    # More than eight parameters: the parts that the layers are built from.
    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        classes: int,
        channels: int,
        width: int,
        stem: Stem,
        activation: Function,
        head: MakeHead,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, width, 3, stem.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stem_pool = stem.pool
        inputs, stages = width, []
        for stage, count in enumerate(blocks):
            planes = width * 2**stage
            layers = []
            for number in range(count):
                stride = 2 if number == 0 and stage > 0 else 1
                layers.append(block(inputs, planes, stride, activation))
                inputs = planes * block.expansion
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = head(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = self.activation(self.bn1(self.conv1(x)))
        if self.stem_pool:
            out = F.max_pool2d(out, 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    match = re.fullmatch(r"resnet-(\d+)", arch_id)
    return {"depth": int(match[1])} if match and int(match[1]) in _BLOCKS else None


# More than eight parameters: these are the keyword arguments that checkpoints store for the architecture.
def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    depth: int = 18,
    width: int = 64,
    stem_pool: bool = False,
    stem_stride: int = 1,
    stride_first: bool = False,
    activation: str = RELU,
    bias: bool = True,
    head: Head = "linear",
    scale: float = 1.0,
) -> nn.Module:
    """``stem_pool``: max pooling after the 3x3 stem, as in torchvision (huyvnphan/PyTorch_CIFAR10);
    ``stem_stride``: its stride. ``stride_first``: of a bottleneck, in the first convolution. ``bias`` of a
    linear last layer. ``head``: ``cosine``, times ``scale``, as in Pang et al. 2020."""
    bottleneck = StrideFirstBottleneck if stride_first else Bottleneck
    block = bottleneck if depth in _BOTTLENECK else BasicBlock
    last, function = make_head(head, bias=bias, scale=scale), activation_function(activation)
    stem = Stem(stem_stride, stem_pool)
    return ResNet(block, _BLOCKS[depth], classes, channels, width, stem, function, last)


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    if not stem or not head or "bn1.weight" not in shapes or "layer1.0.conv1.weight" not in shapes:
        return None
    stages = tuple(count_children(shapes, f"layer{stage}") for stage in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in shapes
    fitting = [depth for depth, blocks in _BLOCKS.items() if blocks == stages]
    depth = next((d for d in fitting if (d in _BOTTLENECK) == bottleneck), 50 if bottleneck else 18)
    arguments = non_default({"width": stem[0], "bias": "linear.bias" in shapes}, DEFAULTS)
    variants: tuple[Arguments, ...] = ({"stem_pool": True}, {"stem_stride": 2}, *VARIANTS)
    if bottleneck:
        variants = ({"stride_first": True}, *variants)
    return Inferred(
        Architecture(f"resnet-{depth}", arguments),
        head[0],
        stem[1],
        variants=variants,
        biasless_head=biasless(shapes, "linear"),
    )
