"""The random signs of SPSA: balanced, independent, and the same bits on every device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robust_eval.attacks import _signs

PAIRS, SIZE = 128, 33


def signs(seed: int, image: int, step: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    return _signs.directions(seed, torch.tensor([image]), step, PAIRS, SIZE)[0].double().numpy()


def test_directions_are_balanced_signs_that_differ_between_images_steps_and_seeds() -> None:
    base = signs(0, 0, 1)
    assert base.shape == (PAIRS, SIZE)
    assert set(np.unique(base)) == {-1, 1}
    assert abs(base.mean()) < 0.06
    gram = base.T @ base / PAIRS
    assert np.abs(gram - np.eye(SIZE)).max() < 0.5
    for other in ((1, 0, 1), (0, 1, 1), (0, 0, 2)):
        assert abs((signs(*other) * base).mean()) < 0.06
    assert np.array_equal(signs(0, 0, 1), base)


def test_directions_do_not_depend_on_the_other_images() -> None:
    several = _signs.directions(5, torch.tensor([7, 0, 3]), 2, PAIRS, SIZE)
    assert np.array_equal(several[2].numpy(), signs(5, 3, 2))


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63 - 1])
def test_the_words_are_those_of_numpy(seed: int) -> None:
    found = _signs.philox(seed, torch.tensor([0, 1, 9_999, 2**40]), 100, 5).numpy().view(np.uint64)
    for image, words in zip([0, 1, 9_999, 2**40], found, strict=True):
        stream = np.random.Philox(key=[seed, image], counter=[0, 0, 0, 100])
        assert np.array_equal(words, stream.random_raw(20))


@pytest.mark.parametrize(("pairs", "size"), [(1, 1), (3, 8), (128, 33), (2, 3 * 32 * 32), (5, 784)])
def test_a_device_computes_the_signs_of_the_host(pairs: int, size: int) -> None:
    images = torch.tensor([4, 0, 17])
    expected = _signs.directions(3, images, 6, pairs, size)
    assert torch.equal(_signs.on_device(3, images, 6, pairs, size), expected)


def test_the_signs_stay_the_same() -> None:
    """Recorded values: a change would change every result of SPSA."""
    found = _signs.directions(2026, torch.tensor([11]), 1, 2, 16)[0]
    assert ["".join("+" if sign > 0 else "-" for sign in row) for row in found.tolist()] == [
        "++++++++--++---+",
        "-+----++--+-+++-",
    ]
