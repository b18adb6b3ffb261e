"""Images as float32 tensors, converted when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_eval.core import pixels
from robust_eval.core.pixels import Pixels, StoredPixels


class FloatImages:
    """Images (N, C, H, W), float32 in [0, 1], of which indexing gives some as a tensor on ``device``.

    It takes the place of a tensor where only parts are read. The values are computed on the CPU: a GPU
    divides by 255 with another rounding.
    """

    def __init__(self, x_NHWC: Pixels, device: torch.device | str = "cpu") -> None:
        self.x_NHWC, self.device = x_NHWC, torch.device(device)

    @property
    def shape(self) -> torch.Size:
        n, height, width, channels = self.x_NHWC.shape
        return torch.Size((n, channels, height, width))

    def __len__(self) -> int:
        return len(self.x_NHWC)

    def __getitem__(self, rows: slice | Tensor | Sequence[int]) -> Tensor:
        key: Any = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        return to_floats(self.x_NHWC[key]).to(self.device)

    def to(self, device: torch.device | str) -> FloatImages:
        """The same images, read to another device."""
        return FloatImages(self.x_NHWC, device)


Images = Tensor | FloatImages
"""Images (N, C, H, W), float32 in [0, 1]; a tensor if they are few."""


def to_floats(x_NHWC: NDArray[np.uint8]) -> Tensor:
    """Pixels (N, H, W, C) as a contiguous tensor (N, C, H, W), float32 in [0, 1], on the CPU."""
    x_NCHW = torch.from_numpy(np.ascontiguousarray(x_NHWC.transpose(0, 3, 1, 2)))
    return x_NCHW.float().div_(255)


def images_of(x_NHWC: Pixels) -> Images:
    """A tensor if the pixels are in memory and few, else what reads it in parts."""
    if isinstance(x_NHWC, StoredPixels) or x_NHWC.nbytes > pixels.HELD_BYTES:
        return FloatImages(x_NHWC)
    return to_floats(x_NHWC)
