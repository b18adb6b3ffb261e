"""Read image files of one size, at once if they are few, else when they are needed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import pixels, strict_image
from robust_eval.core.errors import UserError
from robust_eval.core.pixels import Pixels, StoredPixels
from robust_eval.data._resizing import Resizing

Size = tuple[int, int]


def shown(path: Path, base: Path) -> str:
    """A path as error messages name it."""
    return path.relative_to(base).as_posix() if path != base else str(base)


def read(paths: Sequence[Path], base: Path, resizing: Resizing | None = None) -> Pixels:
    """Images (N, H, W, C); one channel if all are grey, else three.

    Raises:
        UserError: for images that cannot be read, or differ in size. If there are many, only the descriptions
            at their beginnings are read here, and damaged pixels are reported when they are needed.
    """
    first = strict_image.read(paths[0], shown(paths[0], base), change=resizing.apply if resizing else None)
    height, width = first.shape[:2]
    files = ImageFiles(tuple(paths), base, (width, height), resizing)
    few = 3 * height * width * len(paths) <= pixels.HELD_BYTES
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        # Pillow warns of large images and of damaged descriptions beside the pixels.
        warnings.simplefilter("ignore")
        if not few:
            channels = max(pool.map(files.channels, range(len(paths)), chunksize=64))
            return files.stored(channels)
        arrays = list(pool.map(files.read, range(len(paths)), chunksize=64))
    x_NHWC = np.empty((len(arrays), height, width, max(array.shape[2] for array in arrays)), np.uint8)
    for index, array in enumerate(arrays):
        x_NHWC[index] = array  # a grey image is repeated over the channels
    return x_NHWC


@dataclass(frozen=True)
class ImageFiles:
    """Image files, and how they become images of one size."""

    paths: tuple[Path, ...]
    base: Path
    """The folder that contains them."""
    size: Size
    """(width, height) of the images."""
    resizing: Resizing | None = None

    def stored(self, channels: int) -> StoredPixels:
        """The images, read when they are needed."""
        width, height = self.size
        return StoredPixels(self.read, np.arange(len(self.paths)), (height, width, channels))

    def read(self, number: int) -> NDArray[np.uint8]:
        """One image (H, W, 1 or 3)."""
        name, change = self._name(number), self.resizing.apply if self.resizing else None
        # Images of another size are not decoded, unless they are resized.
        found = strict_image.read(self.paths[number], name, None if change else self.size, change)
        self._check(name, (found.shape[1], found.shape[0]))
        return found

    def channels(self, number: int) -> int:
        """1 or 3, without decoding the image."""
        name = self._name(number)
        size, channels = strict_image.describe(self.paths[number], name)
        self._check(name, self.resizing.size(size) if self.resizing else size)
        return channels

    def _name(self, number: int) -> str:
        return shown(self.paths[number], self.base)

    def _check(self, name: str, size: Size) -> None:
        if size != self.size:
            raise UserError(
                f"Images differ in size: {self._name(0)} is {self.size[0]}x{self.size[1]} and {name} is "
                f"{size[0]}x{size[1]}. Resize and crop them: folder:DIR?resize=256&crop=224."
            )
