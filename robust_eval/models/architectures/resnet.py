"""Post-activation ResNet (He et al. 2015): of kuangliu/pytorch-cifar and TRADES, torchvision and timm.

For small images: 3x3 stem without pooling and four stages of ``width * (1, 2, 4, 8)`` channels, or three
(``resnet-20`` to ``resnet-110``). For ImageNet: ``stem_kernel=7``, of stride 2 and with max pooling. ResNeXt
and the Wide ResNets of torchvision are bottlenecks with other ``groups`` and ``base_width``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Arguments, Inferred, Shapes, count_children, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, activation_function
from robust_eval.models.architectures._heads import Head, MakeHead, biasless, make_head
from robust_eval.models.architectures._residual import (
    SHORTCUTS,
    USUAL_WIDTH,
    BasicBlock,
    BlockStyle,
    Bottleneck,
    Shortcut,
)

IDS = ("resnet-18", "resnet-34", "resnet-50")
# torchvision has the names fc and downsample, Liu et al. 2020 classifier; the numbered names are those of
# weiaicunzai/pytorch-cifar100.
ALIASES = (
    # A 1 is the number of a linear layer after dropout, in a Sequential.
    (r"^(?:fc|linear|classifier|last_linear|head)\.(?:1\.)?", "linear."),
    (r"\.downsample\.", ".shortcut."),
    (r"^conv1\.0\.", "conv1."),
    (r"^conv1\.1\.", "bn1."),
    *((rf"^conv{stage + 1}_x\.", f"layer{stage}.") for stage in range(1, 5)),
    *((rf"\.residual_function\.{3 * i}\.", f".conv{i + 1}.") for i in range(3)),
    *((rf"\.residual_function\.{3 * i + 1}\.", f".bn{i + 1}.") for i in range(3)),
)
DEFAULTS = {
    "width": USUAL_WIDTH,
    "bias": True,
    "stem_kernel": 3,
    "shortcut": "conv",
    "groups": 1,
    "base_width": USUAL_WIDTH,
    "expansion": 4,
}

_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    **{6 * n + 2: (n, n, n) for n in (3, 5, 7, 9, 18)},
}
_BOTTLENECK = {50, 101, 152}
_NARROW = 16
"""Channels of the first of three stages."""
_IMAGENET_KERNEL = 7
_STAGES = (3, 4)


@dataclass(frozen=True)
class Stem:
    """Kernel and stride of the first convolution, and whether max pooling follows it."""

    kernel: int
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
        style: BlockStyle,
        head: MakeHead,
    ) -> None:
        super().__init__()
        self.activation = style.activation
        self.conv1 = nn.Conv2d(channels, width, stem.kernel, stem.stride, stem.kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stem_pool = stem.pool
        inputs, self.stages = width, len(blocks)
        for stage, count in enumerate(blocks):
            layers: list[nn.Module] = []
            for number in range(count):
                stride = 2 if number == 0 and stage > 0 else 1
                added = block(inputs, width * 2**stage, stride, style)
                layers.append(added)
                inputs = added.outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = head(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = self.activation(self.bn1(self.conv1(x)))
        if self.stem_pool:
            out = F.max_pool2d(out, 3, 2, 1)
        for stage in range(self.stages):
            out = self.get_submodule(f"layer{stage + 1}")(out)
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    if arch_id == "resnet":
        return {}
    match = re.fullmatch(r"resnet-(\d+)", arch_id)
    return {"depth": int(match[1])} if match and int(match[1]) in _BLOCKS else None


# More than eight parameters: these are the keyword arguments that checkpoints store for the architecture.
def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],  # global pooling takes any size
    depth: int = 18,
    width: int | None = None,
    blocks: Sequence[int] = (),
    bottleneck: bool | None = None,
    groups: int = 1,
    base_width: int = USUAL_WIDTH,
    expansion: int = 4,
    shortcut: Shortcut = "conv",
    stem_kernel: int = 3,
    stem_pool: bool | None = None,
    stem_stride: int | None = None,
    stride_first: bool = False,
    activation: str = RELU,
    bias: bool = True,
    head: Head = "linear",
    scale: float = 1.0,
) -> nn.Module:
    """``width``: 64, or 16 with three stages. ``blocks`` of each stage and ``bottleneck`` replace ``depth``;
    ``groups``, ``base_width``, ``expansion``, ``shortcut`` and ``stride_first`` are of :class:`BlockStyle`.
    ``stem_stride``, ``stem_pool``: 2 and with max pooling after a ``stem_kernel`` of 7, else 1 and without;
    torchvision's code with a 3x3 stem pools (huyvnphan/PyTorch_CIFAR10). ``bias`` of a linear last layer.
    ``head``: ``cosine``, times ``scale``, as in Pang et al. 2020."""
    if shortcut not in SHORTCUTS:
        raise unknown("shortcut", shortcut, SHORTCUTS)
    counts = tuple(blocks) or _BLOCKS[depth]
    if len(counts) not in _STAGES or min(counts) < 1:
        raise UserError(f"blocks={list(counts)} must be three or four positive numbers, one of each stage.")
    imagenet = stem_kernel == _IMAGENET_KERNEL
    stem = Stem(
        stem_kernel,
        (2 if imagenet else 1) if stem_stride is None else stem_stride,
        imagenet if stem_pool is None else stem_pool,
    )
    bottlenecks = not blocks and depth in _BOTTLENECK if bottleneck is None else bottleneck
    return ResNet(
        Bottleneck if bottlenecks else BasicBlock,
        counts,
        classes,
        channels,
        width or (_NARROW if len(counts) == 3 else USUAL_WIDTH),
        stem,
        BlockStyle(activation_function(activation), shortcut, groups, base_width, expansion, stride_first),
        make_head(head, bias=bias, scale=scale),
    )


def infer(shapes: Shapes) -> Inferred | None:
    stem, head = shapes.get("conv1.weight"), shapes.get("linear.weight")
    first = shapes.get("layer1.0.conv1.weight")
    if not stem or not head or not first or "bn1.weight" not in shapes or "layer1.0.fc1.weight" in shapes:
        return None
    blocks = tuple(count for stage in range(1, 5) if (count := count_children(shapes, f"layer{stage}")))
    if len(blocks) not in _STAGES:
        return None
    bottleneck = "layer1.0.conv3.weight" in shapes
    arguments = {
        "bias": "linear.bias" in shapes,
        "stem_kernel": stem[2],
        "shortcut": "conv" if "layer2.0.shortcut.0.weight" in shapes else "pad",
        **(_bottleneck(shapes) if bottleneck else {"width": first[0]}),
    }
    depth = next((d for d, n in _BLOCKS.items() if n == blocks and (d in _BOTTLENECK) == bottleneck), None)
    named = {} if depth else {"blocks": list(blocks), "bottleneck": bottleneck}
    defaults = {**DEFAULTS, "width": _NARROW if len(blocks) == 3 else USUAL_WIDTH}
    architecture = Architecture(
        f"resnet-{depth}" if depth else "resnet", named | non_default(arguments, defaults)
    )
    stem_variants = ({"stem_pool": True}, {"stem_stride": 2})
    if stem[2] == _IMAGENET_KERNEL:
        stem_variants = ({"stem_pool": False}, {"stem_stride": 1})
    variants: list[Arguments] = [{"stride_first": True}] if bottleneck else []
    variants += [{"shortcut": "append"}] if arguments["shortcut"] == "pad" else []
    return Inferred(
        architecture,
        head[0],
        stem[1],
        variants=(*variants, *stem_variants, *VARIANTS),
        biasless_head=biasless(shapes, "linear"),
    )


def _bottleneck(shapes: Shapes) -> dict[str, int]:
    """The arguments of bottlenecks. The channels of the last stage are 2, 4 or 8 times those of the first."""
    inner, per_group = shapes["layer1.0.conv2.weight"][:2]
    outputs, width, groups = shapes["layer1.0.conv3.weight"][0], shapes["conv1.weight"][0], inner // per_group
    return {
        "width": width,
        "groups": groups,
        "base_width": USUAL_WIDTH * inner // (groups * width),
        "expansion": outputs // width,
    }
