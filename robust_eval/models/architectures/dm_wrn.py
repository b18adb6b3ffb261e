"""Wide ResNet of DeepMind's PyTorch code (Gowal et al. 2020), ``dm-wrn-DEPTH-WIDTH``; SiLU by default.

Used by Gowal, Rebuffi, Rade, Pang 2022, Wang 2023, Bartoldson 2024 and many others. It differs from ``wrn``
in names, in the activation, and in convolutions of stride 2, which are padded on the right and below, as in
TensorFlow. ``dm-wrn`` without numbers takes the sizes of each stage, ``squeeze`` (Peng et al. 2023) and
``sparse`` (MeanSparse, Amini et al. 2024).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, kaiming_normal, non_default
from robust_eval.models.architectures._activations import SILU, SILU_VARIANTS, Function, activation_function
from robust_eval.models.architectures._stages import (
    blocks_and_planes,
    depth_and_width,
    named_stages,
    stages_of,
)

IDS = ("dm-wrn-28-10", "dm-wrn-70-16")
DEFAULTS = {"stem": 16, "squeeze": 0.0, "sparse": False}


@dataclass(frozen=True)
class Parts:
    """What the blocks are made of."""

    activation: Function
    squeeze: float
    sparse: bool


def pad_same(x_NCHW: Tensor, stride: int) -> Tensor:
    """Zeros around the input of an unpadded 3x3 convolution, as many and where TensorFlow adds them."""
    return F.pad(x_NCHW, (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1))


class SparseMeans(nn.Module):
    """Replace values within ``threshold`` standard deviations of the channel's mean by the mean.

    Amini et al. 2024, equation 5. The last two buffers are only used when statistics are collected.
    """

    running_mean: Tensor
    running_var: Tensor
    threshold: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.zeros(channels))
        self.register_buffer("threshold", torch.tensor(0.0))
        self.register_buffer("flag_update_statistics", torch.tensor(0))
        self.register_buffer("batch_num", torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.running_mean.view(1, -1, 1, 1)
        radius = self.threshold * self.running_var.sqrt().view(1, -1, 1, 1)
        return torch.where((x - mean).abs() < radius, mean, x)


class Squeeze(nn.Module):
    """Scale channels by a function of their means (Hu et al. 2018); the names are those of torchvision."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))).sigmoid()
        return x * scale


class DMWideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, parts: Parts) -> None:
        super().__init__()
        self.activation, self.stride = parts.activation, stride
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.se = Squeeze(outputs, round(parts.squeeze * outputs)) if parts.squeeze else nn.Identity()
        self.meansparse_0, self.meansparse_1, self.meansparse_2 = (
            SparseMeans(channels) if parts.sparse else nn.Identity()
            for channels in (inputs, outputs, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.meansparse_0(self.batchnorm_0(x)))
        skip: Tensor = self.shortcut(out) if hasattr(self, "shortcut") else x
        out = self.conv_0(pad_same(out, self.stride))
        out = self.activation(self.meansparse_1(self.batchnorm_1(out)))
        out = skip + self.se(self.conv_1(out))
        sparse: Tensor = self.meansparse_2(out)
        return sparse


class DMBlockGroup(nn.Module):
    """The blocks of one width; the attribute name ``block`` is that of public state dicts."""

    def __init__(self, count: int, inputs: int, outputs: int, stride: int, parts: Parts) -> None:
        super().__init__()
        blocks = [
            DMWideBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1, parts)
            for i in range(count)
        ]
        self.block = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(x)
        return out


class DMWideResNet(nn.Module):
    def __init__(
        self,
        blocks: Sequence[int],
        planes: Sequence[int],
        stem: int,
        classes: int,
        channels: int,
        parts: Parts,
    ) -> None:
        super().__init__()
        self.activation = parts.activation
        self.init_conv = nn.Conv2d(channels, stem, 3, 1, 1, bias=False)
        inputs = (stem, *planes)
        self.layer = nn.Sequential(
            *(
                DMBlockGroup(count, inputs[i], planes[i], 1 if i == 0 else 2, parts)
                for i, count in enumerate(blocks)
            )
        )
        self.batchnorm = nn.BatchNorm2d(planes[-1])
        self.meansparse_end = SparseMeans(planes[-1]) if parts.sparse else nn.Identity()
        self.logits = nn.Linear(planes[-1], classes)
        kaiming_normal(self, "fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = self.batchnorm(self.layer(self.init_conv(x)))
        out = self.activation(self.meansparse_end(out))
        logits: Tensor = self.logits(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    if arch_id == "dm-wrn":
        return {}
    match = re.fullmatch(r"dm-wrn-(\d+)-(\d+)", arch_id)
    return depth_and_width(arch_id, int(match[1]), int(match[2])) if match else None


# More than eight parameters: these are the keyword arguments that checkpoints store for the architecture.
def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    depth: int = 28,
    width: int = 10,
    stem: int = 16,
    blocks: Sequence[int] = (),
    planes: Sequence[int] = (),
    squeeze: float = 0.0,
    sparse: bool = False,
    activation: str = SILU,
) -> nn.Module:
    """``stem``, ``blocks``, ``planes``: channels of the first layer, blocks and channels of each stage.
    ``squeeze``: hidden features of squeeze-and-excitation per channel; 0 for none. ``sparse``: MeanSparse."""
    stages = blocks_and_planes(depth, width, blocks, planes)
    return DMWideResNet(
        *stages, stem, classes, channels, Parts(activation_function(activation), squeeze, sparse)
    )


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("init_conv.weight"), shapes.get("logits.weight")
    if not stem or not head or "layer.0.block.0.conv_0.weight" not in shapes:
        return None
    prefixes = [f"layer.{stage}.block" for stage in range(3)]
    arch_id, stages = named_stages("dm-wrn", *stages_of(shapes, prefixes, "conv_0"))
    hidden, outputs = shapes.get("layer.0.block.0.se.fc1.weight", (0, 1))[:2]
    arguments = {
        "stem": stem[0],
        "squeeze": round(hidden / outputs, 3),
        "sparse": "meansparse_end.threshold" in shapes,
    }
    architecture = Architecture(arch_id, {**stages, **non_default(arguments, DEFAULTS)})
    return Inferred(architecture, head[0], stem[1], variants=SILU_VARIANTS)
