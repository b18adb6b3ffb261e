"""Stages of residual networks: from each to the next the width doubles and the image size halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn


def residual_stages(
    blocks: Sequence[int], width: int, block: Callable[[int, int, int], nn.Module]
) -> tuple[list[nn.Sequential], int]:
    """(stages, channels of the last one), with this number of blocks each.

    ``width``: channels of the input and of the first stage. ``block``: makes one from its input channels,
    output channels and stride.
    """
    inputs, stages = width, []
    for stage, count in enumerate(blocks):
        outputs, layers = width * 2**stage, []
        for number in range(count):
            layers.append(block(inputs, outputs, 2 if number == 0 and stage > 0 else 1))
            inputs = outputs
        stages.append(nn.Sequential(*layers))
    return stages, inputs
