"""Wide ResNet, ``wrn-DEPTH-WIDTH`` (Zagoruyko and Komodakis 2016), as in the code of TRADES, MART and AWP.

3x3 stem of 16 channels; three stages of (depth - 4) / 6 pre-activation blocks with
``width * (16, 32, 64)`` channels; shortcut convolutions take the BN-ReLU output; final BN-ReLU,
global average pooling, one linear layer. Dropout is omitted: no recipe uses it, and it has no
parameters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, kaiming_normal, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, Function, activation_function
from robust_eval.models.architectures._heads import Head, MakeHead, biasless, make_head
from robust_eval.models.architectures._stages import (
    blocks_and_planes,
    depth_and_width,
    named_stages,
    stages_of,
)

IDS = ("wrn-28-10", "wrn-34-10")
# Huang et al. 2021 and 2022 (RobustWRN, RobustResNets) have the names stem_conv, blocks.0 and norm1.
ALIASES = (
    # A 1 is the number of a linear layer after dropout, in a Sequential.
    (r"^(?:fc|linear|classifier|last_linear|head)\.(?:1\.)?", "fc."),
    (r"^stem_conv\.", "conv1."),
    (r"^(blocks\..*)\.shortcut\.0\.", r"\1.convShortcut."),
    (r"^blocks\.0\.layer\.", "block1.layer."),
    (r"^blocks\.1\.layer\.", "block2.layer."),
    (r"^blocks\.2\.layer\.", "block3.layer."),
    (r"^norm1\.", "bn1."),
)
DEFAULTS = {"sub_block": False, "bias": True}

_STEM = 16


class WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Function) -> None:
        super().__init__()
        # A copy, in case it has tensors: state dicts name them in every block.
        self.activation = deepcopy(activation)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(x))
        skip: Tensor = self.convShortcut(out) if hasattr(self, "convShortcut") else x
        change: Tensor = self.conv2(self.activation(self.bn2(self.conv1(out))))
        return change + skip


class BlockGroup(nn.Module):
    """The blocks of one width; the attribute name ``layer`` is that of public state dicts."""

    def __init__(self, count: int, inputs: int, outputs: int, stride: int, activation: Function) -> None:
        super().__init__()
        blocks = [
            WideBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1, activation)
            for i in range(count)
        ]
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    def __init__(
        self,
        blocks: Sequence[int],
        planes: Sequence[int],
        classes: int,
        channels: int,
        sub_block: bool,
        activation: Function,
        head: MakeHead,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, _STEM, 3, 1, 1, bias=False)
        self.block1 = BlockGroup(blocks[0], _STEM, planes[0], 1, activation)
        if sub_block:
            # Not used in forward; it exists because public checkpoints contain it.
            self.sub_block1 = BlockGroup(blocks[0], _STEM, planes[0], 1, activation)
        self.block2 = BlockGroup(blocks[1], planes[0], planes[1], 2, activation)
        self.block3 = BlockGroup(blocks[2], planes[1], planes[2], 2, activation)
        self.bn1 = nn.BatchNorm2d(planes[2])
        self.fc = head(planes[2], classes)
        kaiming_normal(self, "fan_out")
        if self.fc.bias is not None:
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out: Tensor = self.block3(self.block2(self.block1(self.conv1(x))))
        out = self.activation(self.bn1(out))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    if arch_id == "wrn":
        return {}
    match = re.fullmatch(r"wrn-(\d+)-(\d+)", arch_id)
    return depth_and_width(arch_id, int(match[1]), int(match[2])) if match else None


# More than eight parameters: these are the keyword arguments that checkpoints store for the architecture.
def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    depth: int = 34,
    width: int = 10,
    blocks: Sequence[int] = (),
    planes: Sequence[int] = (),
    sub_block: bool = False,
    bias: bool = True,
    activation: str = RELU,
    head: Head = "linear",
    scale: float = 1.0,
) -> nn.Module:
    """``blocks``, ``planes``: blocks and channels of each stage, as in Huang et al. 2021 and 2022.
    ``sub_block``: with the unused first stage of the TRADES code. ``bias`` of a linear last layer.
    ``head``: ``cosine``, times ``scale``, as in Pang et al. 2020."""
    last, function = make_head(head, bias=bias, scale=scale), activation_function(activation)
    stages = blocks_and_planes(depth, width, blocks, planes)
    return WideResNet(*stages, classes, channels, sub_block, function, last)


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv1.weight"), shapes.get("fc.weight")
    if not stem or not head or "block1.layer.0.conv1.weight" not in shapes:
        return None
    prefixes = [f"block{stage}.layer" for stage in (1, 2, 3)]
    arch_id, stages = named_stages("wrn", *stages_of(shapes, prefixes, "conv1"))
    arguments = non_default(
        {"sub_block": "sub_block1.layer.0.conv1.weight" in shapes, "bias": "fc.bias" in shapes}, DEFAULTS
    )
    learnt = {"activation": "pssilu"} if "activation.alpha" in shapes else {}
    architecture = Architecture(arch_id, {**stages, **arguments, **learnt})
    variants = () if learnt else VARIANTS
    return Inferred(architecture, head[0], stem[1], variants=variants, biasless_head=biasless(shapes, "fc"))
