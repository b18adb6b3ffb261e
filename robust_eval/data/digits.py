"""The handwritten digits bundled with scikit-learn: 1,797 grey images of 8x8, no download.

They are the test part of the UCI "Optical Recognition of Handwritten Digits" data, ordered by writer.
The last 360 images are the test split, so most of its writers are not in the training split.
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
    """Load a split; the stored levels 0 to 16 are scaled to 0 to 255 and rounded."""
    levels_NHW, y_N = _stored()
    x_NHWC = np.rint(levels_NHW * (255 / 16)).astype(np.uint8)[..., None]
    part = slice(-TEST_IMAGES, None) if split == "test" else slice(None, -TEST_IMAGES)
    return ImageSet("digits", split, x_NHWC[part], y_N[part], tuple("0123456789"))


def _stored() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Levels (N, 8, 8) and labels (N,), read from the file of scikit-learn.

    Only a missing file makes it import scikit-learn, which is slow.
    """
    spec = find_spec("sklearn")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    file = folder / "datasets" / "data" / "digits.csv.gz"
    if file.is_file():
        rows = np.loadtxt(file, delimiter=",")
        return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1].astype(np.int64)
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target.astype(np.int64)
