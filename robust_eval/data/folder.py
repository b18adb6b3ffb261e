"""Images in one folder per class: ``DIR/<class>/*.png``, or ``DIR/train/<class>/`` and ``DIR/test/<class>/``.

Classes are numbered in alphabetical order of the folder names of both splits.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet, Split

ARGUMENT = "DIR"
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}
_GREY = {"1", "L", "LA"}
# Modes with more than 8 bits per channel; conversion to 8 bits would change the pixels.
_DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load all images under the folder ``argument`` (relative to the working directory, not to ``root``)."""
    base = Path(argument).expanduser()
    if not base.is_dir():
        raise UserError(f"{argument} is not a folder. Write folder:DIR with one subfolder per class.")
    splits = {name: base / name for name in ("train", "test") if _folders(base / name)}
    if splits and split not in splits:
        raise UserError(f"{argument} has a {next(iter(splits))} folder but no {split} folder.")
    top = splits.get(split, base)
    names = sorted({name for folder in (splits.values() or [base]) for name in _folders(folder)})
    paths = [(path, label) for label, name in enumerate(names) for path in _images(top / name)]
    if not paths:
        raise UserError(f"{argument} has no images: expected files such as {top.name}/<class>/0001.png.")
    x_NHWC = _read([path for path, _ in paths], base)
    y_N = np.array([label for _, label in paths], dtype=np.int64)
    name = f"folder:{base.resolve().name}"
    return ImageSet(name, split if splits else "all", x_NHWC, y_N, tuple(names))


def _folders(folder: Path) -> list[str]:
    """Names of the class folders; hidden folders and ``__MACOSX`` are skipped."""
    if not folder.is_dir():
        return []
    return [item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith((".", "__"))]


def _images(folder: Path) -> list[Path]:
    """The image files of a class at any depth, in alphabetical order."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def _read(paths: Sequence[Path], base: Path) -> NDArray[np.uint8]:
    """Read all images as (N, H, W, C); one channel if all are grey, else three."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        arrays = list(pool.map(lambda path: _decode(path, base), paths, chunksize=64))
    size = arrays[0].shape[:2]
    for path, array in zip(paths, arrays, strict=True):
        if array.shape[:2] != size:
            raise UserError(
                f"Images differ in size: {paths[0].relative_to(base)} is {size[1]}x{size[0]} and "
                f"{path.relative_to(base)} is {array.shape[1]}x{array.shape[0]}. Resize them to one size."
            )
    channels = max(array.shape[2] for array in arrays)
    x_NHWC = np.empty((len(arrays), *size, channels), np.uint8)
    for index, array in enumerate(arrays):
        x_NHWC[index] = array  # a grey image is repeated over the channels
    return x_NHWC


def _sixteen_bits(path: Path, image: Image.Image) -> bool:
    """Whether a PNG has 16 bits per channel; Pillow silently keeps the upper 8 bits."""
    if image.format != "PNG":
        return False
    with path.open("rb") as file:
        return file.read(25)[24] > 8  # in IHDR, the first chunk


def _decode(path: Path, base: Path) -> NDArray[np.uint8]:
    """Read one image as (H, W, 1) or (H, W, 3), without its alpha channel."""
    try:
        with Image.open(path) as image:
            if image.mode not in _DEEP and not _sixteen_bits(path, image):
                array = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
                return array if array.ndim == 3 else array[..., None]
            mode = image.mode
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{path.relative_to(base)} cannot be read as an image ({error}).") from None
    raise UserError(
        f"{path.relative_to(base)} has more than 8 bits per channel (mode {mode}). Save it with 8 bits."
    )
