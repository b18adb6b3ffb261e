"""Shared loader of cifar10 and cifar100."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from robust_eval.core.download import find_or_download
from robust_eval.data import ImageSet, Split


def load_cifar(name: str, dataset: Any, root: Path, split: Split) -> ImageSet:
    """Load a split with ``dataset`` (a class of torchvision) from ``root`` or ``root/<name>``."""

    def build(folder: Path, download: bool) -> Any:
        return dataset(str(folder), train=split == "train", download=download)

    found = find_or_download(
        name, build, (root, root / name), f"the folder {dataset.base_folder}", dataset.url
    )
    x_NHWC = np.ascontiguousarray(found.data, dtype=np.uint8)
    y_N = np.asarray(found.targets, dtype=np.int64)
    return ImageSet(name, split, x_NHWC, y_N, tuple(found.classes))
