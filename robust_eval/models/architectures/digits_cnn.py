"""A small network for the 8x8 digits of scikit-learn, designed for this project: trains in seconds on a CPU.

Three padded 3x3 convolutions (w, 2w, 2w channels, w = 16; the second with stride 2), then 64 hidden
features. It has no BatchNorm, so logits do not depend on the other images or on the mode.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from torch import Tensor, nn

from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, activation_layer

IDS = ("digits-cnn",)
DEFAULTS = {"width": 16, "hidden": 64}


class DigitsCNN(nn.Module):
    """``area``: number of positions of the last feature maps."""

    def __init__(
        self, classes: int, channels: int, area: int, width: int, hidden: int, activation: str
    ) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, width, 3, 1, 1),
            activation_layer(activation),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            activation_layer(activation),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
            activation_layer(activation),
        )
        self.fc1 = nn.Linear(2 * width * area, hidden)
        self.relu = activation_layer(activation)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        logits: Tensor = self.fc2(self.relu(self.fc1(self.convolutions(x).flatten(1))))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    return {} if arch_id == "digits-cnn" else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],
    width: int = 16,
    hidden: int = 64,
    activation: str = RELU,
) -> nn.Module:
    height, wide = image_size
    return DigitsCNN(classes, channels, -(-height // 2) * -(-wide // 2), width, hidden, activation)


def infer(shapes: Shapes) -> Inferred | None:
    first, hidden, head = (shapes.get(f"{name}.weight") for name in ("convolutions.0", "fc1", "fc2"))
    if not first or not hidden or not head:
        return None
    side = 2 * isqrt(hidden[1] // (2 * first[0]))
    arguments = non_default({"width": first[0], "hidden": hidden[0]}, DEFAULTS)
    return Inferred(Architecture("digits-cnn", arguments), head[0], first[1], (side, side), VARIANTS)
