"""SVHN, cropped digits: 73,257 training and 26,032 test images, 32x32, colour (Netzer et al., 2011)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robust_eval.core.download import find_or_download
from robust_eval.data import ImageSet, Split

ARGUMENT = None


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load ``train_32x32.mat`` or ``test_32x32.mat``, or download it with torchvision; digit 0 is class 0."""
    from torchvision.datasets import SVHN

    def build(folder: Path, download: bool) -> Any:
        return SVHN(str(folder), split=split, download=download)

    source, file, _ = SVHN.split_list[split]
    found = find_or_download("svhn", build, (root / "svhn", root, root / "SVHN"), file, source)
    x_NHWC = np.ascontiguousarray(found.data.transpose(0, 2, 3, 1), dtype=np.uint8)
    return ImageSet("svhn", split, x_NHWC, found.labels.astype(np.int64), tuple("0123456789"))
