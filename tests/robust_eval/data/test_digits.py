from __future__ import annotations

import numpy as np
import pytest

from robust_eval.data import load
from robust_eval.data.digits import _stored


def test_test_split_is_the_last_360_and_disjoint_from_training() -> None:
    test, train = load("digits"), load("digits", split="train")
    assert (test.n, train.n) == (360, 1437)
    assert test.image_size == (8, 8)
    assert test.channels == 1
    assert not {image.tobytes() for image in test.x_NHWC} & {image.tobytes() for image in train.x_NHWC}


def test_levels_are_scaled_to_the_8_bit_range() -> None:
    images = load("digits", split="train")
    assert images.x_NHWC.dtype == np.uint8
    assert images.x_NHWC.min() == 0
    assert images.x_NHWC.max() == 255
    assert len(np.unique(images.x_NHWC)) == 17


def test_every_class_is_about_a_tenth_of_the_test_split() -> None:
    counts = np.bincount(load("digits").y_N)
    assert counts.min() >= 33
    assert counts.max() <= 38


def test_the_fingerprint_is_unchanged() -> None:
    fingerprint = load("digits").slice().fingerprint
    assert fingerprint.startswith("7bf2f3a2")


def test_the_file_is_read_as_scikit_learn_reads_it() -> None:
    from sklearn.datasets import load_digits

    levels_NHW, y_N = _stored()
    assert np.array_equal(levels_NHW, load_digits().images)
    assert np.array_equal(y_N, load_digits().target)


def test_without_the_file_scikit_learn_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_eval.data.digits.find_spec", lambda _name: None)
    assert _stored()[0].shape == (1797, 8, 8)
