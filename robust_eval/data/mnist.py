"""MNIST: 70,000 grey images of 28x28; 10,000 are the test split (LeCun et al., 1998).

Read from the four IDX files, gzipped or not, under the data root.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import regular_file
from robust_eval.core.download import find_or_download
from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet, Split

ARGUMENT = None
_STEM = {"train": "train", "test": "t10k"}
# MD5 sums of pixels and labels, without the file headers.
_MD5 = {
    "train": ("6510e85a72c3e9475c492d559d3770d2", "e86ee40d66677c011a9abda399ec8c4d"),
    "test": ("240610fa99e73bfa49df8e7fc24d3206", "073c3904dfbd3e141ff8aa01cfde6b15"),
}
# Of a file and of its array; the largest of MNIST has 47 MB.
_LARGEST_BYTES = 2**26


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load from root, root/mnist or root/MNIST/raw; else torchvision downloads to root/MNIST/raw."""

    def build(folder: Path, download: bool) -> Any:
        from torchvision.datasets import MNIST

        return MNIST(str(folder), download=download)

    folders = (root, root / "mnist", root / "MNIST" / "raw")
    files = _find(folders, split)
    if files is None:
        find_or_download(
            "mnist",
            build,
            (root,),
            "the four *-ubyte.gz files",
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
        )
        files = _find(folders, split)
        if files is None:
            raise UserError(
                f"mnist was downloaded to {root}, but its files are missing in that folder. Try again."
            )
    x_NHW, y_N = read_idx(files[0], 3), read_idx(files[1], 1)
    if len(x_NHW) != len(y_N):
        raise UserError(f"{files[0].name} has {len(x_NHW)} images and {files[1].name} {len(y_N)} labels.")
    if y_N.max(initial=0) > 9:
        raise UserError(f"{files[1].name} has the label {y_N.max()}; MNIST's are 0 to 9.")
    found = tuple(hashlib.md5(array.tobytes(), usedforsecurity=False).hexdigest() for array in (x_NHW, y_N))
    if found != _MD5[split]:
        raise UserError(
            f"{files[0].parent} holds other images than MNIST's under its file names (FashionMNIST and "
            "KMNIST share them). Keep MNIST in another folder, or give these images as npz:FILE."
        )
    return ImageSet("mnist", split, x_NHW[..., None], y_N.astype(np.int64), tuple("0123456789"))


def _find(folders: tuple[Path, ...], split: Split) -> tuple[Path, Path] | None:
    """The image and label files of a split, from the first folder that has both."""
    for folder in folders:
        found = [
            next((folder / name for name in _spellings(split, kind) if (folder / name).is_file()), None)
            for kind in ("images-idx3", "labels-idx1")
        ]
        if found[0] and found[1]:
            return found[0], found[1]
    return None


def _spellings(split: Split, kind: str) -> tuple[str, ...]:
    """Possible names: ``t10k-images-idx3-ubyte`` or ``t10k-images.idx3-ubyte``, with or without .gz."""
    stems = (f"{_STEM[split]}-{kind}-ubyte", f"{_STEM[split]}-{kind.replace('-', '.')}-ubyte")
    return tuple(stem + suffix for stem in stems for suffix in ("", ".gz"))


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes: 0, 0, 8, number of dimensions, sizes, data.

    Raises:
        UserError: for another format, a damaged file, or one with the wrong number of bytes.
    """
    with regular_file.opened(path, "IDX files", _LARGEST_BYTES) as file:
        unpacker = _Unpacker(file) if path.suffix == ".gz" else file
        try:
            head = unpacker.read(4 + 4 * dimensions)
            if head[:4] != bytes((0, 0, 8, dimensions)) or len(head) < 4 + 4 * dimensions:
                raise UserError(f"{path} is not an IDX file of bytes in {dimensions} dimension(s).")
            shape = tuple(int(size) for size in np.frombuffer(head, ">u4", offset=4))
            expected = math.prod(shape)
            if expected > _LARGEST_BYTES:
                raise UserError(f"{path} declares {expected} bytes, more than the {_LARGEST_BYTES} accepted.")
            data = unpacker.read(expected + 1)
        except zlib.error as error:
            raise UserError(f"{path} is damaged ({error}). Fetch it again.") from None
    if len(data) != expected:
        found = "more" if len(data) > expected else f"only {len(data)}"
        raise UserError(
            f"{path} should hold {expected} bytes after its header and holds {found}. Fetch it again."
        )
    return np.frombuffer(data, np.uint8).reshape(shape).copy()


class _Unpacker:
    """Reads a gzip file of one member, of which never more is unpacked than is asked for."""

    def __init__(self, file: BufferedReader) -> None:
        self._file, self._stream = file, zlib.decompressobj(wbits=31)
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Up to ``size`` unpacked bytes; fewer at the end of the member. Raises zlib.error."""
        parts, missing = [], size
        while missing and not self._stream.eof:
            packed = self._rest or self._file.read(2**20)
            if not packed:
                raise zlib.error("the file is truncated")
            parts.append(self._stream.decompress(packed, missing))
            self._rest = self._stream.unconsumed_tail
            missing -= len(parts[-1])
        return b"".join(parts)
