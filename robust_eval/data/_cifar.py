"""What cifar10 and cifar100 share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robust_eval.core.download import find_or_download
from robust_eval.data import ImageSet, Split


def load_cifar(name: str, dataset: Any, root: Path, split: Split) -> ImageSet:
    """``dataset``: torchvision's class; its files are looked for in root and in root/<name>."""

    def build(place: Path, download: bool) -> Any:
        return dataset(str(place), train=split == "train", download=download)

    found = find_or_download(
        name, build, (root, root / name), f"the folder {dataset.base_folder}", dataset.url
    )
    x_NHWC = np.ascontiguousarray(found.data, dtype=np.uint8)
    y_N = np.asarray(found.targets, dtype=np.int64)
    return ImageSet(name, split, x_NHWC, y_N, tuple(found.classes))
