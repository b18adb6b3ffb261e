"""VGG for small images (Simonyan and Zisserman 2015), as in kuangliu/pytorch-cifar; BatchNorm is optional.

Five stages of 3x3 convolutions, each ended by 2x2 max pooling; global average pooling; one linear
layer, or the three of chengyangfu/pytorch-vgg-cifar10.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, activation_layer

IDS = ("vgg-16", "vgg-19")
# Liu et al. 2020 have the name feature_extractor.
ALIASES = ((r"^feature_extractor\.", "features."), (r"^(?:fc|linear|head)\.", "classifier."))
DEFAULTS = {"width": 64, "bias": True, "norm": True, "head": (), "hidden": 512, "pooled": 1}

_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_SCALE = (1, 2, 4, 8, 8)


def _features(
    stages: Sequence[int], channels: int, width: int, bias: bool, norm: bool, activation: str
) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = channels
    for count, scale in zip(stages, _SCALE, strict=True):
        for _ in range(count):
            outputs = width * scale
            layers.append(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=bias))
            layers += [nn.BatchNorm2d(outputs)] if norm else []
            layers.append(activation_layer(activation))
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _head(inputs: int, hidden: int, classes: int, positions: Sequence[int], activation: str) -> nn.Module:
    """One linear layer, or linear layers at ``positions`` of a Sequential, activated except for the last.

    The other positions are dropout in the public code, which does nothing in evaluation.
    """
    if not positions:
        return nn.Linear(inputs, classes)
    layers: list[nn.Module] = [nn.Identity() for _ in range(positions[-1] + 1)]
    for position in positions:
        last = position == positions[-1]
        layers[position] = nn.Linear(
            inputs if position == positions[0] else hidden, classes if last else hidden
        )
        if not last:
            layers[position + 1] = activation_layer(activation)
    return nn.Sequential(*layers)


class VGG(nn.Module):
    def __init__(self, features: nn.Sequential, classifier: nn.Module, pooled: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = F.adaptive_avg_pool2d(self.features(x), self.pooled)
        logits: Tensor = self.classifier(out.flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    match = re.fullmatch(r"vgg-(\d+)", arch_id)
    return {"depth": int(match[1])} if match and int(match[1]) in _STAGES else None


# More than eight parameters: these are the keyword arguments that checkpoints store for the architecture.
def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],
    depth: int = 16,
    width: int = 64,
    bias: bool = True,
    norm: bool = True,
    head: Sequence[int] = (),
    hidden: int = 512,
    pooled: int = 1,
    activation: str = RELU,
) -> nn.Module:
    """``width``: channels of the first stage. ``bias``: whether convolutions have one. ``norm``: with
    BatchNorm. ``head``: positions of
    the linear layers in a Sequential classifier with ``hidden`` features; empty for a single layer.
    ``pooled``: side of the pooled features (7 in the heads of torchvision)."""
    if min(image_size) < 32:
        height, wide = image_size
        raise UserError(
            f"vgg-{depth} halves its input five times: it needs images of 32x32 or more, got {height}x{wide}."
        )
    inputs = width * _SCALE[-1] * pooled**2
    features = _features(_STAGES[depth], channels, width, bias, norm, activation)
    return VGG(features, _head(inputs, hidden, classes, tuple(head), activation), pooled)


def infer(shapes: Shapes) -> Inferred | None:
    kernels = {
        int(match[1]): key for key in shapes if (match := re.fullmatch(r"features\.(\d+)\.weight", key))
    }
    convolutions = [position for position, key in kernels.items() if len(shapes[key]) == 4]
    heads = {
        int(match[1] or -1): shapes[key]
        for key in shapes
        if (match := re.fullmatch(r"classifier\.(?:(\d+)\.)?weight", key))
    }
    if not heads or 0 not in convolutions:
        return None
    layers = len(convolutions)
    depth = next((depth for depth, stages in _STAGES.items() if sum(stages) == layers), 16)
    first, single = shapes["features.0.weight"], list(heads) == [-1]
    positions = () if single else tuple(sorted(heads))
    inputs = heads[-1 if single else positions[0]][1]
    arguments = {
        "width": first[0],
        "bias": "features.0.bias" in shapes,
        "norm": "features.1.running_mean" in shapes,
        "head": positions,
        "hidden": 512 if single else heads[positions[0]][0],
        "pooled": max(round((inputs / (first[0] * _SCALE[-1])) ** 0.5), 1),
    }
    classes = heads[-1 if single else positions[-1]][0]
    architecture = Architecture(f"vgg-{depth}", non_default(arguments, DEFAULTS))
    return Inferred(architecture, classes, first[1], (32, 32), VARIANTS)
