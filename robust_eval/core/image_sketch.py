"""Which images a network was trained on, in a few kilobytes: enough to notice when it is judged on them.

The smallest 64-bit hashes of a set are a fair sample of it that any other set can be compared with
(bottom-k sketch: Cohen and Kaplan, PODC 2007): an image whose hash lies below the largest one kept is in the
set exactly if its hash was kept.
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

SKETCH_SIZE = 1024
_NAME = "smallest_hashes"


def hashes(x_NHWC: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """One hash per image (N,), of its size and pixels; the label plays no part."""
    size = np.array(x_NHWC.shape[1:], "<i8").tobytes()
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8, key=size).digest() for image in x_NHWC)
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64)


def hashes_of_all(sets: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint64]:
    """The hashes of all images of several sets, one set after the other; none of no set."""
    return np.concatenate([np.empty(0, np.uint64), *map(hashes, sets)])


@dataclass(frozen=True)
class Overlap:
    """How many of the images that could be compared a network was trained on."""

    seen: int
    compared: int


def sketch(sets: Iterable[NDArray[np.uint8]]) -> dict[str, Any]:
    """Of all sets (each N, H, W, C) together, as plain values for a checkpoint."""
    found = hashes_of_all(sets)
    smallest = np.unique(found)[:SKETCH_SIZE]
    content = base64.b64encode(smallest.astype("<u8").tobytes()).decode()
    return {"images": len(found), _NAME: content}


def overlap(sketched: Mapping[str, Any], x_NHWC: NDArray[np.uint8]) -> Overlap | None:
    """``x_NHWC`` against a :func:`sketch`; None where it cannot be read."""
    try:
        content = base64.b64decode(sketched[_NAME], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        return None
    if len(content) % 8 or not content:
        return None
    kept = np.frombuffer(content, "<u8").astype(np.uint64)
    here = hashes(x_NHWC)
    if len(kept) >= SKETCH_SIZE:
        here = here[here <= kept.max()]
    return Overlap(int(np.isin(here, kept).sum()), len(here))
