"""Sketches of training images, and the flag for evaluation on training images."""

from __future__ import annotations

import json

import numpy as np
import pytest

from robust_eval.core.image_sketch import SKETCH_SIZE, Overlap, hashes, overlap, sketch
from robust_eval.results import flags

IMAGES = np.random.RandomState(0).randint(0, 256, (5000, 4, 4, 1)).astype(np.uint8)


def test_a_small_set_is_stored_completely() -> None:
    stored = sketch([IMAGES[:300]])
    assert overlap(stored, IMAGES[200:500]) == Overlap(100, 300)


def test_a_large_set_is_sampled_uniformly() -> None:
    stored = json.loads(json.dumps(sketch([IMAGES[:1000], IMAGES[1000:4000]])))
    assert stored["images"] == 4000
    inside, outside = overlap(stored, IMAGES[:1000]), overlap(stored, IMAGES[4000:])
    assert inside is not None
    assert outside is not None
    assert inside.seen == inside.compared
    assert abs(inside.compared - 1000 * SKETCH_SIZE / 4000) < 60
    assert outside.seen == 0


def test_the_hash_covers_the_image_shape() -> None:
    assert not np.isin(hashes(IMAGES[:5]), hashes(IMAGES[:5].reshape(5, 2, 8, 1))).any()


@pytest.mark.parametrize("damaged", [{}, {"smallest_hashes": 3}, {"smallest_hashes": "AAA"}])
def test_a_damaged_sketch_is_ignored(damaged: dict[str, object]) -> None:
    assert overlap(damaged, IMAGES) is None


def test_an_overlap_above_one_percent_is_flagged() -> None:
    assert flags.from_overlap(None) == flags.from_overlap(Overlap(1, 100)) == ()
    (flag,) = flags.from_overlap(Overlap(2, 100))
    assert (flag.id, flag.severity) == ("judged-on-training-images", flags.BLOCKS)
