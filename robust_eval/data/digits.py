"""scikit-learn's bundled handwritten digits: 1,797 grey images of 8x8, nothing to download.

They are the test part of the UCI "Optical Recognition of Handwritten Digits" data, stored writer
by writer. The last 360 are the test split, so its writers are mostly not those of training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robust_eval.data import ImageSet, Split

ARGUMENT = None
TEST_IMAGES = 360


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Images are stored as levels 0..16; they are scaled to 0..255 and rounded."""
    from sklearn.datasets import load_digits

    levels_NHW, labels_N = load_digits().images, load_digits().target
    x_NHWC = np.rint(levels_NHW * (255 / 16)).astype(np.uint8)[..., None]
    y_N = labels_N.astype(np.int64)
    part = slice(-TEST_IMAGES, None) if split == "test" else slice(None, -TEST_IMAGES)
    return ImageSet("digits", split, x_NHWC[part], y_N[part], tuple("0123456789"))
