"""The MNIST network of Wong and Kolter 2018, as in locuslab/fast_adversarial and convex_adversarial.

Two padded 4x4 convolutions of stride 2 (w, 2w channels, w = 16), then 100 hidden features. The layers are
numbered, with the flattening at number 4.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, activation_layer

IDS = ("wong-cnn",)
DEFAULTS = {"width": 16, "hidden": 100}


class WongCNN(nn.Sequential):
    """Normalised ``x_NCHW`` to ``logits_NK``."""

    def __init__(
        self, classes: int, channels: int, area: int, width: int, hidden: int, activation: str
    ) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 4, 2, 1),
            activation_layer(activation),
            nn.Conv2d(width, 2 * width, 4, 2, 1),
            activation_layer(activation),
            nn.Flatten(),
            nn.Linear(2 * width * area, hidden),
            activation_layer(activation),
            nn.Linear(hidden, classes),
        )


def sizes(arch_id: str) -> dict[str, Any] | None:
    return {} if arch_id == "wong-cnn" else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],
    width: int = 16,
    hidden: int = 100,
    activation: str = RELU,
) -> nn.Module:
    height, wide = image_size
    if min(image_size) < 4:
        raise UserError(f"wong-cnn needs images of at least 4x4, got {height}x{wide}.")
    return WongCNN(classes, channels, (height // 4) * (wide // 4), width, hidden, activation)


def infer(shapes: Shapes) -> Inferred | None:
    first, hidden, head = (shapes.get(f"{number}.weight") for number in (0, 5, 7))
    if not first or not hidden or not head or first[2:] != (4, 4):
        return None
    side = 4 * isqrt(hidden[1] // (2 * first[0]))
    arguments = non_default({"width": first[0], "hidden": hidden[0]}, DEFAULTS)
    return Inferred(Architecture("wong-cnn", arguments), head[0], first[1], (side, side), VARIANTS)
