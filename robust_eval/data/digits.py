"""scikit-learn's bundled handwritten digits: 1,797 grey images of 8x8, nothing to download.

They are the test part of the UCI "Optical Recognition of Handwritten Digits" data, stored writer
by writer. The last 360 are the test split, so its writers are mostly not those of training.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robust_eval.data import ImageSet, Split

ARGUMENT = None
TEST_IMAGES = 360


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Images are stored as levels 0..16; they are scaled to 0..255 and rounded."""
    levels_NHW, y_N = _stored()
    x_NHWC = np.rint(levels_NHW * (255 / 16)).astype(np.uint8)[..., None]
    part = slice(-TEST_IMAGES, None) if split == "test" else slice(None, -TEST_IMAGES)
    return ImageSet("digits", split, x_NHWC[part], y_N[part], tuple("0123456789"))


def _stored() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Levels (N, 8, 8) and labels (N,), from scikit-learn's own file where it lies as it always has.

    Importing scikit-learn for it takes longer than all else before the first attack.
    """
    spec = find_spec("sklearn")
    place = Path(spec.origin).parent if spec and spec.origin else Path()
    file = place / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        rows = np.loadtxt(file, delimiter=",")
        return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target.astype(np.int64)
