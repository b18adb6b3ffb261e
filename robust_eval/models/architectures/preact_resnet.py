"""PreAct ResNet for small images (He et al. 2016, "Identity Mappings"), as in AWP and Rice et al.

3x3 stem without pooling; stages of ``width * (1, 2, 4, 8)`` channels; a 1x1 shortcut convolution
where the shape changes; final BN-ReLU, global average pooling, one linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import unknown
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, count_children, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, Function, activation_function
from robust_eval.models.architectures._heads import Head, MakeHead, biasless, make_head

IDS = ("preact-resnet-18", "preact-resnet-34", "preact-resnet-50")
ALIASES = (
    # A 1 is the number of a linear layer after dropout, in a Sequential.
    (r"^(?:fc|linear|classifier|last_linear|logits|head)\.(?:1\.)?", "linear."),
    (r"\.downsample\.", ".shortcut."),
    (r"^(?:final_bn|bn_final|bn_last|norm)\.", "bn."),
)
DEFAULTS = {"width": 64, "final_norm": True, "shortcut": "activated", "bias": True}

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BOTTLENECK = {50, 101, 152}
_EXPANSION = 4
Shortcut = Literal["activated", "input"]


class PreActBlock(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, stride: int, shortcut: Shortcut, activation: Function
    ) -> None:
        super().__init__()
        self.activation, self.outputs = activation, outputs
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.from_input = shortcut == "input"
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(x))
        skip: Tensor = self.shortcut(x if self.from_input else out) if hasattr(self, "shortcut") else x
        change: Tensor = self.conv2(self.activation(self.bn2(self.conv1(out))))
        return change + skip


class PreActBottleneck(nn.Module):
    def __init__(
        self, inputs: int, planes: int, stride: int, shortcut: Shortcut, activation: Function
    ) -> None:
        super().__init__()
        self.activation, self.outputs = activation, planes * _EXPANSION
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, self.outputs, 1, bias=False)
        self.from_input = shortcut == "input"
        if stride != 1 or inputs != self.outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, self.outputs, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(x))
        skip: Tensor = self.shortcut(x if self.from_input else out) if hasattr(self, "shortcut") else x
        out = self.conv2(self.activation(self.bn2(self.conv1(out))))
        change: Tensor = self.conv3(self.activation(self.bn3(out)))
        return change + skip


class PreActResNet(nn.Module):
    # More than eight parameters: the parts that the layers are built from.
    def __init__(
        self,
        block: type[PreActBlock] | type[PreActBottleneck],
        blocks: Sequence[int],
        classes: int,
        channels: int,
        width: int,
        final_norm: bool,
        shortcut: Shortcut,
        activation: Function,
        head: MakeHead,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        inputs, stages = width, []
        for stage, count in enumerate(blocks):
            layers: list[nn.Module] = []
            for number in range(count):
                stride = 2 if number == 0 and stage > 0 else 1
                added = block(inputs, width * 2**stage, stride, shortcut, activation)
                layers.append(added)
                inputs = added.outputs
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        if final_norm:
            self.bn = nn.BatchNorm2d(inputs)
        self.linear = head(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out: Tensor = self.conv1(x)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            out = layer(out)
        if hasattr(self, "bn"):
            out = self.activation(self.bn(out))
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    match = re.fullmatch(r"preact-resnet-(\d+)", arch_id)
    return {"depth": int(match[1])} if match and int(match[1]) in _BLOCKS else None


# More than eight parameters: these are the keyword arguments that checkpoints store for the architecture.
def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    depth: int = 18,
    width: int = 64,
    final_norm: bool = True,
    shortcut: Shortcut = "activated",
    activation: str = RELU,
    bias: bool = True,
    head: Head = "linear",
    scale: float = 1.0,
) -> nn.Module:
    """``final_norm=False``: without the last BN-ReLU, as in kuangliu/pytorch-cifar and Wong et al. 2020.
    ``shortcut="input"``: shortcuts start before BN-ReLU, as in Wong et al. 2020. ``bias`` of a linear last
    layer. ``head``: ``cosine``, times ``scale``, as in Pang et al. 2020."""
    if shortcut not in ("activated", "input"):
        raise unknown("shortcut", shortcut, ("activated", "input"))
    last, function = make_head(head, bias=bias, scale=scale), activation_function(activation)
    block = PreActBottleneck if depth in _BOTTLENECK else PreActBlock
    return PreActResNet(block, _BLOCKS[depth], classes, channels, width, final_norm, shortcut, function, last)


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    if not stem or not head or "layer1.0.bn1.weight" not in shapes or "bn1.weight" in shapes:
        return None
    stages = tuple(count_children(shapes, f"layer{stage}") for stage in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in shapes
    fitting = [depth for depth, blocks in _BLOCKS.items() if blocks == stages]
    depth = next((d for d in fitting if (d in _BOTTLENECK) == bottleneck), 50 if bottleneck else 18)
    arguments = non_default(
        {"width": stem[0], "final_norm": "bn.weight" in shapes, "bias": "linear.bias" in shapes}, DEFAULTS
    )
    architecture = Architecture(f"preact-resnet-{depth}", arguments)
    variants = ({"shortcut": "input"}, *VARIANTS)
    return Inferred(
        architecture, head[0], stem[1], variants=variants, biasless_head=biasless(shapes, "linear")
    )
