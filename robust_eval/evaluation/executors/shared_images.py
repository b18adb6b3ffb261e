"""Images that the processes of one machine share: a file that each of them maps into its memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robust_eval.core.types import Ints

_FILE = "images.npy"


@dataclass(frozen=True, eq=False)
class SharedImages:
    """The examples of a request, float32 in [0, 1]."""

    fingerprint: str
    """Of the request's data."""
    path: Path
    """NumPy file of the images (N, C, H, W)."""
    y_N: Ints

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Images and labels on the CPU.

        The images are pages of the file, which all processes have in common until one writes into them.
        """
        x = np.load(self.path, mmap_mode="c", allow_pickle=False)
        return torch.from_numpy(np.asarray(x)), torch.from_numpy(self.y_N)


def share(fingerprint: str, x_NCHW: Tensor, y_N: Tensor, folder: Path) -> SharedImages:
    """Write images to a file in ``folder``, which must exist as long as they are used."""
    np.save(folder / _FILE, x_NCHW.cpu().numpy(), allow_pickle=False)
    return SharedImages(fingerprint, folder / _FILE, y_N.cpu().numpy())
