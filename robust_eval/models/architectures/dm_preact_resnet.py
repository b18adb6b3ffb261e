"""PreAct ResNet of DeepMind's PyTorch code (Gowal et al. 2020), ``dm-preact-resnet-18``; SiLU by default.

Used by Rebuffi, Rade, Gowal 2021 and others. It differs from ``preact-resnet`` in names, in the activation,
in shortcuts (3x3 convolutions of the input, before BatchNorm), and in convolutions of stride 2, which are
padded on the right and below, as in TensorFlow.
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
from robust_eval.models.architectures._activations import SILU, SILU_VARIANTS, Function, activation_function
from robust_eval.models.architectures._residual_stages import residual_stages
from robust_eval.models.architectures.dm_wrn import pad_same

IDS = ("dm-preact-resnet-18", "dm-preact-resnet-34")
DEFAULTS = {"width": 64}

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class DMPreActBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Function) -> None:
        super().__init__()
        self.activation, self.stride = activation, stride
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_2d_1 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_2d_2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 3, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        skip: Tensor = self.shortcut(pad_same(x, self.stride)) if hasattr(self, "shortcut") else x
        out = self.conv_2d_1(pad_same(self.activation(self.batchnorm_0(x)), self.stride))
        change: Tensor = self.conv_2d_2(self.activation(self.batchnorm_1(out)))
        return change + skip


class DMPreActResNet(nn.Module):
    def __init__(
        self, blocks: Sequence[int], classes: int, channels: int, width: int, activation: Function
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv_2d = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        block = partial(DMPreActBlock, activation=activation)
        stages, inputs = residual_stages(blocks, width, block)
        self.layer_0, self.layer_1, self.layer_2, self.layer_3 = stages
        self.batchnorm = nn.BatchNorm2d(inputs)
        self.logits = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out: Tensor = self.conv_2d(x)
        for layer in (self.layer_0, self.layer_1, self.layer_2, self.layer_3):
            out = layer(out)
        out = self.activation(self.batchnorm(out))
        logits: Tensor = self.logits(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    match = re.fullmatch(r"dm-preact-resnet-(\d+)", arch_id)
    return {"depth": int(match[1])} if match and int(match[1]) in _BLOCKS else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    depth: int = 18,
    width: int = 64,
    activation: str = SILU,
) -> nn.Module:
    """``width``: channels of the first stage."""
    return DMPreActResNet(_BLOCKS[depth], classes, channels, width, activation_function(activation))


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv_2d.weight"), shapes.get("logits.weight")
    if not stem or not head or "layer_0.0.conv_2d_1.weight" not in shapes:
        return None
    stages = tuple(count_children(shapes, f"layer_{stage}") for stage in range(4))
    depth = next((depth for depth, blocks in _BLOCKS.items() if blocks == stages), 18)
    architecture = Architecture(f"dm-preact-resnet-{depth}", non_default({"width": stem[0]}, DEFAULTS))
    return Inferred(architecture, head[0], stem[1], variants=SILU_VARIANTS)
