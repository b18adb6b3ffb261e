"""A small sketch of a set of training images, to detect evaluation on training images.

The sketch is the k smallest 64-bit hashes (bottom-k sketch: Cohen and Kaplan, PODC 2007). They are a
uniform sample of the set: an image whose hash is at most the largest stored hash is in the set exactly
if its hash is stored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core.pixels import Pixels

SKETCH_SIZE = 1024
_NAME = "smallest_hashes"


def hashes(x_NHWC: Pixels) -> NDArray[np.uint64]:
    """One hash per image, shape (N,), of size and pixels; labels are not hashed."""
    size = np.array(x_NHWC.shape[1:], "<i8").tobytes()
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8, key=size).digest() for image in x_NHWC)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def hashes_of_all(sets: Iterable[Pixels]) -> NDArray[np.uint64]:
    """The hashes of all images of several sets, concatenated; empty without sets."""
    return np.concatenate([np.empty(0, np.uint64), *map(hashes, sets)])


@dataclass(frozen=True)
class Overlap:
    """How many of the compared images are in the training set of a network."""

    seen: int
    """Number of compared images in the training set."""
    compared: int
    """Number of images whose membership the sketch decides."""


def sketch(sets: Iterable[Pixels]) -> dict[str, Any]:
    """The sketch of the union of ``sets`` (each N, H, W, C), as JSON values for a checkpoint."""
    found = hashes_of_all(sets)
    smallest = np.unique(found)[:SKETCH_SIZE]
    content = base64.b64encode(smallest.astype("<u8").tobytes()).decode()
    return {"images": len(found), _NAME: content}


def overlap(sketched: Mapping[str, Any], x_NHWC: Pixels) -> Overlap | None:
    """Compare images with a :func:`sketch`; None if the sketch cannot be read."""
    try:
        content = base64.b64decode(sketched[_NAME], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    if len(content) % 8 or not content:
        return None
    stored = np.frombuffer(content, "<u8").astype(np.uint64)
    comparable = hashes(x_NHWC)
    if len(stored) >= SKETCH_SIZE:
        comparable = comparable[comparable <= stored.max()]
    return Overlap(int(np.isin(comparable, stored).sum()), len(comparable))
