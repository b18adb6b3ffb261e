"""Images that the processes of one machine share: a file that each of them maps into its memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_eval.core.float_images import FloatImages, Images
from robust_eval.core.pixels import StoredPixels
from robust_eval.core.types import Ints

_FILE = "images.npy"


@dataclass(frozen=True, eq=False)
class SharedImages:
    """The examples of a request."""

    fingerprint: str
    """Of the request's data."""
    source: Path | StoredPixels
    """NumPy file of the images: float32 (N, C, H, W), or uint8 (N, H, W, C).

    Images that are not in memory are read by each process where they are stored.
    """
    y_N: Ints

    def tensors(self) -> tuple[Images, Tensor]:
        """Images and labels on the CPU.

        The images are pages of the file, which all processes have in common until one writes into them.
        """
        y_N = torch.from_numpy(self.y_N)
        if isinstance(self.source, StoredPixels):
            return FloatImages(self.source), y_N
        x = np.asarray(np.load(self.source, mmap_mode="c", allow_pickle=False))
        return FloatImages(x) if x.dtype == np.uint8 else torch.from_numpy(x), y_N


def share(fingerprint: str, x_NCHW: Images, y_N: Tensor, folder: Path) -> SharedImages:
    """Write images to a file in ``folder``, which must exist as long as they are used."""
    labels = y_N.cpu().numpy()
    if isinstance(x_NCHW, FloatImages) and isinstance(x_NCHW.x_NHWC, StoredPixels):
        return SharedImages(fingerprint, x_NCHW.x_NHWC, labels)
    pixels = x_NCHW.x_NHWC if isinstance(x_NCHW, FloatImages) else x_NCHW.cpu().numpy()
    np.save(folder / _FILE, pixels, allow_pickle=False)
    return SharedImages(fingerprint, folder / _FILE, labels)
