"""The MNIST network of TRADES (Zhang et al. 2019, section 5.3; Carlini and Wagner 2017, table 1).

Two pairs of unpadded 3x3 convolutions (w, w, 2w, 2w channels, w = 32), each pair followed by 2x2 max
pooling, then 200 and 200 hidden features. Dropout of 0.5 after the first is only active in training.
"""

from __future__ import annotations

from collections import OrderedDict
from math import isqrt
from typing import Any

from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models.architectures import Inferred, Shapes, kaiming_normal, non_default
from robust_eval.models.architectures._activations import RELU, VARIANTS, activation_layer

IDS = ("small-cnn",)
DEFAULTS = {"width": 32, "hidden": 200}


class SmallCNN(nn.Module):
    def __init__(
        self,
        classes: int,
        channels: int,
        area: int,
        width: int,
        hidden: int,
        dropout: float,
        activation: str,
    ) -> None:
        super().__init__()
        self.feature_extractor = nn.Sequential(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(channels, width, 3),
                relu1=activation_layer(activation),
                conv2=nn.Conv2d(width, width, 3),
                relu2=activation_layer(activation),
                maxpool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(width, 2 * width, 3),
                relu3=activation_layer(activation),
                conv4=nn.Conv2d(2 * width, 2 * width, 3),
                relu4=activation_layer(activation),
                maxpool2=nn.MaxPool2d(2),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict[str, nn.Module](
                fc1=nn.Linear(2 * width * area, hidden),
                relu1=activation_layer(activation),
                drop=nn.Dropout(dropout),
                fc2=nn.Linear(hidden, hidden),
                relu2=activation_layer(activation),
                fc3=(last := nn.Linear(hidden, classes)),
            )
        )
        kaiming_normal(self, "fan_in")
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised ``x_NCHW`` to ``logits_NK``."""
        logits: Tensor = self.classifier(self.feature_extractor(x).flatten(1))
        return logits


def sizes(arch_id: str) -> dict[str, Any] | None:
    return {} if arch_id == "small-cnn" else None


def build(
    *,
    classes: int,
    channels: int,
    image_size: tuple[int, int],
    width: int = 32,
    hidden: int = 200,
    dropout: float = 0.5,
    activation: str = RELU,
) -> nn.Module:
    height, wide = image_size
    if min(image_size) < 16:
        raise UserError(
            f"small-cnn needs images of at least 16x16, got {height}x{wide}. "
            "Use digits-cnn for smaller images."
        )
    area = ((height - 4) // 2 - 4) // 2 * (((wide - 4) // 2 - 4) // 2)
    return SmallCNN(classes, channels, area, width, hidden, dropout, activation)


def infer(shapes: Shapes) -> Inferred | None:
    first = shapes.get("feature_extractor.conv1.weight")
    hidden, head = shapes.get("classifier.fc1.weight"), shapes.get("classifier.fc3.weight")
    if not first or not hidden or not head:
        return None
    side = 4 * isqrt(hidden[1] // (2 * first[0])) + 12
    arguments = non_default({"width": first[0], "hidden": hidden[0]}, DEFAULTS)
    return Inferred(Architecture("small-cnn", arguments), head[0], first[1], (side, side), VARIANTS)
