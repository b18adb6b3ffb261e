"""Images as data augmentation shows them in training, which moves the statistics of BatchNorm layers.

All functions are deterministic and map ``x_NCHW`` in [0, 1] to the same shape and range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

View = Callable[[Tensor], Tensor]


def as_they_are(x_NCHW: Tensor) -> Tensor:
    """The images themselves."""
    return x_NCHW


def zero_padded_crops(x_NCHW: Tensor) -> Tensor:
    """The images padded with zeros by an eighth of the width and cropped, as in training; all offsets occur.

    Black borders change the remembered statistics by as much as similar normalisations differ.
    """
    height, width = x_NCHW.shape[2:]
    pad = width // 8
    offsets = 2 * pad + 1
    padded = F.pad(x_NCHW, (pad, pad, pad, pad))
    crops = []
    for index, image in enumerate(padded):
        top, left = index // offsets % offsets, index % offsets
        crops.append(image[:, top : top + height, left : left + width])
    return torch.stack(crops)


def mixed_pairs(x_NCHW: Tensor) -> Tensor:
    """Mixtures of two images in all proportions (mixup with alpha 1, Zhang et al. 2018)."""
    n = len(x_NCHW)
    share = (torch.arange(n, device=x_NCHW.device) % 16 + 0.5).view(-1, 1, 1, 1) / 16
    return share * x_NCHW + (1 - share) * x_NCHW.roll(n // 2, 0)


def black_squares(x_NCHW: Tensor) -> Tensor:
    """A square of half the width set to zero, as by cutout before normalisation (DeVries and Taylor 2017)."""
    return x_NCHW.masked_fill(_squares(x_NCHW), 0.0)


def mean_squares(x_NCHW: Tensor) -> Tensor:
    """The same with the mean colour, as cutout does after normalisation."""
    mean = x_NCHW.mean((0, 2, 3), keepdim=True).expand_as(x_NCHW)
    return torch.where(_squares(x_NCHW), mean, x_NCHW)


def _squares(x_NCHW: Tensor) -> Tensor:
    """(N, 1, H, W) whether a pixel is in the square, whose centre is uniform over the image."""
    n, _, height, width = x_NCHW.shape
    generator, half = torch.Generator().manual_seed(0), width // 4
    row, column = (torch.randint(0, size, (n, 1), generator=generator) for size in (height, width))
    rows = (torch.arange(height) >= row - half) & (torch.arange(height) < row + half)
    columns = (torch.arange(width) >= column - half) & (torch.arange(width) < column + half)
    return (rows[:, None, :, None] & columns[:, None, None, :]).to(x_NCHW.device)


BORDERS: Mapping[str, View] = {"as they are": as_they_are, "as zero-padded crops": zero_padded_crops}
"""Tried for each normalisation. Those below are not: mixed images would make a smaller std look right."""
MIXED: Mapping[str, View] = {
    "mixed in pairs": mixed_pairs,
    "with black squares": black_squares,
    "with squares of the mean colour": mean_squares,
}
"""Tried for a network that does not fit the images otherwise."""
VIEWS: Mapping[str, View] = {**BORDERS, **MIXED}
