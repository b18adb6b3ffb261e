"""Wide ResNet, ``wrn-DEPTH-WIDTH`` (Zagoruyko and Komodakis 2016), as in the code of TRADES, MART and AWP.

3x3 stem of 16 channels; three stages of (depth - 4) / 6 pre-activation blocks with
``width * (16, 32, 64)`` channels; shortcut convolutions take the BN-ReLU output; final BN-ReLU,
global average pooling, one linear layer. Dropout is omitted: no recipe uses it, and it has no
parameters.
"""

from __future__ import annotations

import re
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, count_children, kaiming_normal, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, Function, activation_function
from robust_eval.models.architectures._heads import Head, MakeHead, biasless, make_head

IDS = ("wrn-28-10", "wrn-34-10")
ALIASES = ((r"^(?:linear|classifier|last_linear|head)\.", "fc."),)
DEFAULTS = {"sub_block": False, "bias": True}

_STEM = 16


class WideBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
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
        depth: int,
        width: int,
        classes: int,
        channels: int,
        sub_block: bool,
        activation: Function,
        head: MakeHead,
    ) -> None:
        super().__init__()
        self.activation = activation
        count = (depth - 4) // 6
        planes = (16 * width, 32 * width, 64 * width)
        self.conv1 = nn.Conv2d(channels, _STEM, 3, 1, 1, bias=False)
        self.block1 = BlockGroup(count, _STEM, planes[0], 1, activation)
        if sub_block:
            # Not used in forward; it exists because public checkpoints contain it.
            self.sub_block1 = BlockGroup(count, _STEM, planes[0], 1, activation)
        self.block2 = BlockGroup(count, planes[0], planes[1], 2, activation)
        self.block3 = BlockGroup(count, planes[1], planes[2], 2, activation)
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
    match = re.fullmatch(r"wrn-(\d+)-(\d+)", arch_id)
    if not match:
        return None
    depth, width = int(match[1]), int(match[2])
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise UserError(
            f"{arch_id} does not exist: a Wide ResNet's depth is 6n + 4 (10, 16, 22, 28, 34, ...) "
            "and its width at least 1."
        )
    return {"depth": depth, "width": width}


# More than eight parameters: these are the keyword arguments that checkpoints store for the architecture.
def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    depth: int = 34,
    width: int = 10,
    sub_block: bool = False,
    bias: bool = True,
    activation: str = RELU,
    head: Head = "linear",
    scale: float = 1.0,
) -> nn.Module:
    """``sub_block``: with the unused first stage of the TRADES code. ``bias`` of a linear last layer.
    ``head``: ``cosine``, times ``scale``, as in Pang et al. 2020."""
    last = make_head(head, bias=bias, scale=scale)
    return WideResNet(depth, width, classes, channels, sub_block, activation_function(activation), last)


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv1.weight"), shapes.get("fc.weight")
    first = shapes.get("block1.layer.0.conv1.weight")
    if not stem or not head or not first:
        return None
    depth = 6 * count_children(shapes, "block1.layer") + 4
    width = max(first[0] // 16, 1)
    arguments = non_default(
        {"sub_block": "sub_block1.layer.0.conv1.weight" in shapes, "bias": "fc.bias" in shapes}, DEFAULTS
    )
    architecture = Architecture(f"wrn-{depth}-{width}", arguments)
    return Inferred(architecture, head[0], stem[1], variants=VARIANTS, biasless_head=biasless(shapes, "fc"))
