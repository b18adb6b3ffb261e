"""SENet for small images (Hu et al. 2018), as in kuangliu/pytorch-cifar: ``senet-18``.

3x3 stem with BN-ReLU; pre-activation blocks, whose change is scaled per channel by a function of its own
channel means; no BN-ReLU at the end; global average pooling, one linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, count_children, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, Function, activation_function
from robust_eval.models.architectures._residual_stages import residual_stages

IDS = ("senet-18",)
ALIASES = ((r"^(?:fc|classifier)\.", "linear."),)

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_WIDTH = 64
_REDUCTION = 16


class SqueezedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))
        self.fc1 = nn.Conv2d(outputs, outputs // _REDUCTION, 1)
        self.fc2 = nn.Conv2d(outputs // _REDUCTION, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(x))
        skip: Tensor = self.shortcut(out) if hasattr(self, "shortcut") else x
        change: Tensor = self.conv2(self.activation(self.bn2(self.conv1(out))))
        hidden = self.activation(self.fc1(F.adaptive_avg_pool2d(change, 1)))
        scale: Tensor = self.fc2(hidden).sigmoid()
        return change * scale + skip


class SENet(nn.Module):
    def __init__(
        self, blocks: Sequence[int], classes: int, channels: int, width: int, activation: Function
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        block = partial(SqueezedBlock, activation=activation)
        stages, inputs = residual_stages(blocks, width, block)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out: Tensor = self.activation(self.bn1(self.conv1(x)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    match = re.fullmatch(r"senet-(\d+)", arch_id)
    return {"depth": int(match[1])} if match and int(match[1]) in _BLOCKS else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    depth: int = 18,
    width: int = _WIDTH,
    activation: str = RELU,
) -> nn.Module:
    """``width``: channels of the first stage, at least 16."""
    return SENet(_BLOCKS[depth], classes, channels, width, activation_function(activation))


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    if not stem or not head or "bn1.weight" not in shapes or "layer1.0.fc1.weight" not in shapes:
        return None
    stages = tuple(count_children(shapes, f"layer{stage}") for stage in range(1, 5))
    depth = next((depth for depth, blocks in _BLOCKS.items() if blocks == stages), 18)
    architecture = Architecture(f"senet-{depth}", non_default({"width": stem[0]}, {"width": _WIDTH}))
    return Inferred(architecture, head[0], stem[1], variants=VARIANTS)
