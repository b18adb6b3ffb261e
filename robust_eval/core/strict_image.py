"""Read untrusted image files: common formats only, of limited size before and after decoding.

Pillow would otherwise pass PostScript to Ghostscript, which runs it as a program, and load its plug-ins.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from robust_eval.core import regular_file
from robust_eval.core.errors import UserError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LARGEST = 16 * 2**20
"""Largest size of a file in bytes."""
MOST_PIXELS = 2**24
# Calls of read() before and while an image is decoded: headers of many small parts take a long time.
_HEADER_READS, _READS = 10_000, 200_000
# Each scan of a JPEG costs a pass over the whole image, whatever its own size; encoders write about 10.
_MOST_SCANS = 100
_GREY = {"1", "L", "LA"}
# Modes with more than 8 bits per channel; conversion to 8 bits would change the pixels.
_DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def read(
    path: Path,
    name: str,
    size: tuple[int, int] | None = None,
    change: Callable[[Image.Image], Image.Image] | None = None,
) -> NDArray[np.uint8]:
    """Decode one image as (H, W, 1) or (H, W, 3), without its alpha channel.

    ``name`` begins the error messages. An image of another ``size`` (width, height) is not decoded and gives
    an empty array (H, W, 0). ``change`` is applied to the decoded image, for example to resize it.

    Raises:
        UserError: for a file that cannot be opened, is larger than LARGEST, is not in one of FORMATS, is
            damaged, has several frames, more than MOST_PIXELS pixels or more than 8 bits per channel.
    """
    with regular_file.opened(path, "images", LARGEST) as file:
        return _decode(file, name, size, change)


def decode(
    content: bytes, name: str, change: Callable[[Image.Image], Image.Image] | None = None
) -> NDArray[np.uint8]:
    """Decode the content of a file as :func:`read` does."""
    if len(content) > LARGEST:
        raise UserError(f"{name} is larger than {regular_file.size_text(LARGEST)}, the limit for images.")
    return _decode(io.BytesIO(content), name, None, change)


def _decode(
    file: BinaryIO,
    name: str,
    size: tuple[int, int] | None,
    change: Callable[[Image.Image], Image.Image] | None,
) -> NDArray[np.uint8]:
    with _reported(name):
        limited = _LimitedFile(file)
        with Image.open(limited, formats=FORMATS) as image:  # type: ignore[arg-type]  # read, seek and tell
            _refuse_unusable(image, file, name)
            if size is not None and image.size != size:
                return np.empty((image.height, image.width, 0), np.uint8)
            limited.reads = _READS
            decoded = image.convert("L" if image.mode in _GREY else "RGB")
            array = np.asarray(decoded if change is None else change(decoded))
    return array if array.ndim == 3 else array[..., None]


def describe(path: Path, name: str) -> tuple[tuple[int, int], int]:
    """((width, height), channels) of an image as :func:`read` would give it, which is not decoded.

    Raises like :func:`read`, but not for damaged pixels.
    """
    with regular_file.opened(path, "images", LARGEST) as file, _reported(name):
        limited = _LimitedFile(file)
        with Image.open(limited, formats=FORMATS) as image:  # type: ignore[arg-type]  # read, seek and tell
            _refuse_unusable(image, file, name)
            return image.size, 1 if image.mode in _GREY else 3


@contextmanager
def _reported(name: str) -> Iterator[None]:
    try:
        yield
    except (UserError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise UserError(f"{name} is not an image in one of the formats {', '.join(FORMATS)}.") from None
    except Exception as error:
        # Pillow raises exceptions of many kinds for damaged files.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{name} cannot be read as an image ({reason}).") from None


def _refuse_unusable(image: Image.Image, file: BinaryIO, name: str) -> None:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise UserError(
            f"{name} has {width}x{height} pixels, more than the {MOST_PIXELS:,} that are read. Reduce it."
        )
    # The second image of a MPO file, a kind of JPEG that cameras write, is not a frame.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise UserError(f"{name} has several frames. Save one of them.")
    if image.mode in _DEEP or _is_deep_png(image, file):
        raise UserError(f"{name} has more than 8 bits per channel (mode {image.mode}). Save it with 8 bits.")
    tiles = getattr(image, "tile", None) or []
    if any(tile[0] in Image.DECODERS for tile in tiles):
        # Decoders in Python take minutes for large images.
        raise UserError(f"{name} is in a rare variant of {image.format} ({tiles[0][0]}). Save it as PNG.")
    if image.format in ("JPEG", "MPO") and _content(file).count(b"\xff\xda") > _MOST_SCANS:
        raise UserError(f"{name} has more than {_MOST_SCANS} scans. Save it again.")


def _is_deep_png(image: Image.Image, file: BinaryIO) -> bool:
    """Whether a PNG has 16 bits per channel; Pillow silently keeps the upper 8 bits."""
    return image.format == "PNG" and _content(file)[24] > 8  # in IHDR, the first chunk


def _content(file: BinaryIO) -> bytes:
    position = file.tell()
    file.seek(0)
    content = file.read(LARGEST)
    file.seek(position)
    return content


class _LimitedFile:
    """A file that can be read from a limited number of times."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.reads = file, _HEADER_READS
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise OSError("it consists of too many parts")
        return self._file.read(size)
