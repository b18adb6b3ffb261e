"""Images that are decoded when they are needed, so that memory does not grow with their number."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core.types import Ints

HELD_BYTES = 2**28
"""Images of no more bytes than this are decoded once and stay in memory."""
_CHUNK_BYTES = 2**25


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """Images (N, H, W, C), uint8, outside of memory: indexing reads some of them as an array."""

    read: Callable[[int], NDArray[np.uint8]]
    """Gives the image (H, W, C) with a number; called by several threads."""
    rows: Ints
    """(N,) the numbers of the images."""
    image_shape: tuple[int, int, int]
    """(H, W, C)"""

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.image_shape

    @property
    def nbytes(self) -> int:
        """Bytes of all images."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> NDArray[np.uint8]:
        """One image for an integer; the images of a slice, of indices or of a mask."""
        if isinstance(key, int | np.integer):
            image: NDArray[np.uint8] = self[np.array([key])][0]
            return image
        numbers = self.rows[key].tolist()
        found = np.empty((len(numbers), *self.image_shape), np.uint8)
        with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            # Pillow warns of large images and of damaged descriptions beside the pixels.
            warnings.simplefilter("ignore")
            for index, image in enumerate(pool.map(self.read, numbers)):
                found[index] = image  # a grey image is repeated over the channels
        return found

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for part in parts(self):
            yield from part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:] if dtype is None else self[:].astype(dtype)


Pixels = NDArray[np.uint8] | StoredPixels
"""Images (N, H, W, C), in memory or not."""


def chosen(pixels: Pixels, key: slice | Ints) -> Pixels:
    """Some of the images; nothing is read."""
    return replace(pixels, rows=pixels.rows[key]) if isinstance(pixels, StoredPixels) else pixels[key]


def held(pixels: Pixels) -> Pixels:
    """The same images, in memory unless they have more than :data:`HELD_BYTES`."""
    return pixels[:] if isinstance(pixels, StoredPixels) and pixels.nbytes <= HELD_BYTES else pixels


def parts(pixels: Pixels) -> Iterator[NDArray[np.uint8]]:
    """The images in order, a few at a time."""
    step = max(1, _CHUNK_BYTES // max(1, int(np.prod(pixels.shape[1:]))))
    for start in range(0, len(pixels), step):
        yield pixels[start : start + step]
