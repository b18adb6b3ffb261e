"""LeNet of Liu et al. 2020 (liuchen11/AdversaryLossLandscape) and of PyTorch's example, in three layouts.

``mnist``: two padded 5x5 convolutions (2w, 4w channels), each followed by 2x2 max pooling, then
64w hidden features; w = 16 in the paper. ``cifar``: unpadded, 6w and 16w channels, then 120w
and 84w hidden features; w = 1 is LeCun's LeNet-5 with max pooling. ``example``: unpadded, 10w and 20w
channels, then 50w hidden features; w = 1 is ``Net`` of TRADES and of an older PyTorch example.
"""

from __future__ import annotations

from math import isqrt
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes
from robust_eval.models.architectures._activations import RELU, VARIANTS, Function, activation_function

IDS = ("lenet",)
Layout = Literal["mnist", "cifar", "example"]
LAYOUTS = ("mnist", "cifar", "example")
_WIDTH = {"mnist": 16, "cifar": 1, "example": 1}


class LeNetMNIST(nn.Module):
    def __init__(self, classes: int, channels: int, area: int, width: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, 2 * width, 5, 1, 2)
        self.conv2 = nn.Conv2d(2 * width, 4 * width, 5, 1, 2)
        self.fc1 = nn.Linear(area * 4 * width, 64 * width)
        self.fc2 = nn.Linear(64 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = F.max_pool2d(self.activation(self.conv1(x)), 2)
        out = F.max_pool2d(self.activation(self.conv2(out)), 2)
        logits: Tensor = self.fc2(self.activation(self.fc1(out.flatten(1))))
        return logits


class LeNetExample(nn.Module):
    def __init__(self, classes: int, channels: int, area: int, width: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, 10 * width, 5)
        self.conv2 = nn.Conv2d(10 * width, 20 * width, 5)
        self.fc1 = nn.Linear(area * 20 * width, 50 * width)
        self.fc2 = nn.Linear(50 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = self.activation(F.max_pool2d(self.conv1(x), 2))
        out = self.activation(F.max_pool2d(self.conv2(out), 2))
        logits: Tensor = self.fc2(self.activation(self.fc1(out.flatten(1))))
        return logits


class LeNetCIFAR(nn.Module):
    def __init__(self, classes: int, channels: int, area: int, width: int, activation: Function) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(channels, 6 * width, 5)
        self.conv2 = nn.Conv2d(6 * width, 16 * width, 5)
        self.fc1 = nn.Linear(area * 16 * width, 120 * width)
        self.fc2 = nn.Linear(120 * width, 84 * width)
        self.fc3 = nn.Linear(84 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        out = F.max_pool2d(self.activation(self.conv1(x)), 2)
        out = F.max_pool2d(self.activation(self.conv2(out)), 2)
        out = self.activation(self.fc2(self.activation(self.fc1(out.flatten(1)))))
        logits: Tensor = self.fc3(out)
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    return {} if arch_id == "lenet" else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],
    layout: Layout | None = None,
    width: int | None = None,
    activation: str = RELU,
) -> nn.Module:
    """``layout``: by default ``mnist`` for one channel, ``cifar`` for more."""
    if layout not in (None, *LAYOUTS):
        raise unknown("layout", str(layout), LAYOUTS)
    chosen: Layout = layout or ("mnist" if channels == 1 else "cifar")
    scale = width or _WIDTH[chosen]
    height, wide = image_size
    if chosen == "mnist":
        area, needed = (height // 4) * (wide // 4), 4
    else:
        area, needed = ((height - 4) // 2 - 4) // 2 * (((wide - 4) // 2 - 4) // 2), 16
    if min(image_size) < needed:
        raise UserError(
            f"lenet ({chosen} layout) needs images of at least {needed}x{needed}, got {height}x{wide}."
        )
    networks = {"mnist": LeNetMNIST, "cifar": LeNetCIFAR, "example": LeNetExample}
    return networks[chosen](classes, channels, area, scale, activation_function(activation))


def infer(shapes: Shapes) -> Inferred | None:
    first, second, hidden = (shapes.get(f"{name}.weight") for name in ("conv1", "conv2", "fc1"))
    layout: Layout = "cifar" if "fc3.weight" in shapes else "mnist"
    head = shapes.get("fc3.weight" if layout == "cifar" else "fc2.weight")
    if layout == "mnist" and first and first[0] % 10 == 0 and hidden and hidden[0] == 5 * first[0]:
        layout = "example"  # in the other layout, there are 32 hidden features per channel
    if not first or not second or not hidden or not head or first[2:] != (5, 5):
        return None
    channels = first[1]
    side = isqrt(hidden[1] // second[0])
    image_size = (4 * side, 4 * side) if layout == "mnist" else (4 * side + 12, 4 * side + 12)
    width = max(first[0] // {"mnist": 2, "cifar": 6, "example": 10}[layout], 1)
    arguments: dict[str, Any] = {}
    if layout != ("mnist" if channels == 1 else "cifar"):
        arguments["layout"] = layout
    if width != _WIDTH[layout]:
        arguments["width"] = width
    return Inferred(Architecture("lenet", arguments), head[0], channels, image_size, VARIANTS)
