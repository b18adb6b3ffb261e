"""Read untrusted NumPy files, ``.npz`` and ``.npy``: plain arrays of limited size; nothing is unpickled."""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import regular_file, strict_zip
from robust_eval.core.errors import UserError

MOST_UNPACKED = 50
"""An archive may unpack to this multiple of its size, and to FREE bytes in any case."""
FREE = 64 * 2**20
_LONGEST_HEADER = 10_000
_MOST_DIMENSIONS = 32
_LONGEST_TEXT = 10_000
# As every version of NumPy writes it; integers ended in L under Python 2.
_HEADER = re.compile(
    r"\{\s*'descr': (?P<descr>.{1,8000}), 'fortran_order': (?P<order>True|False), "
    r"'shape': \((?P<shape>(?:\d{1,18}L?, ?)*(?:\d{1,18}L?)?)\),? ?\}\s*"
)
_DTYPE = re.compile(r"'(?P<order>[<>|=]?)(?P<kind>[biufU])(?P<size>\d{1,5})'")
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8)}


@contextmanager
def opened_npz(source: Path | bytes, most: int, name: str = "") -> Iterator[Arrays]:
    """The arrays of an archive: a file, or its content. ``name``: for error messages, if not a file.

    Raises:
        UserError: for a file that cannot be opened or is larger than ``most``, is no zip archive, is damaged,
            or unpacks to more than ``most`` or MOST_UNPACKED times its size. Also while the block reads.
    """
    if isinstance(source, bytes):
        yield from _opened(io.BytesIO(source), len(source), name, most)
        return
    with regular_file.opened(source, "NumPy archives", most) as file:
        yield from _opened(file, file.seek(0, io.SEEK_END), str(source), most)


def _opened(file: IO[bytes], size: int, name: str, most: int) -> Iterator[Arrays]:
    file.seek(0)
    if not file.read(4).startswith((b"PK\x03\x04", b"PK\x05\x06")):
        raise UserError(
            f"{name} is not an .npz archive. Write one with numpy.savez(file, x=images, y=labels)."
        )
    try:
        with strict_zip.opened(file, size, ratio=MOST_UNPACKED, free=FREE) as archive:
            yield Arrays(archive, name, most)
    except strict_zip.UnusableZipError as error:
        raise UserError(f"{name} {error}.") from None


class Arrays:
    """The arrays of an open archive, by name."""

    def __init__(self, archive: strict_zip.Archive, file: str, most: int) -> None:
        self._archive, self._file, self._left = archive, file, most
        self.names = {name.removesuffix(".npy") for name in archive.sizes if name.endswith(".npy")}

    def read(self, name: str) -> NDArray[Any]:
        """An array of bool, integer, floating-point or text type, in the byte order of the machine.

        Raises:
            UserError: for an array of another type, for Python objects, if shape and size of the content do
                not agree, and if all arrays read so far are larger than the archive's ``most``.
        """
        member = f"{name}.npy"
        if member not in self._archive.sizes:
            raise UserError(f"{self._file} lacks the array {name}.")
        size = self._archive.sizes[member]
        self._left -= size
        if self._left < 0:
            raise UserError(f"{self._file} holds larger arrays than are read of such a file. Divide it.")
        with self._archive.member(member) as file:
            return _array(file, size, f"{self._file} ({name})")


def read_npy(path: Path, most: int) -> NDArray[Any]:
    """The array of an ``.npy`` file of at most ``most`` bytes. Raises like :meth:`Arrays.read`."""
    content = regular_file.read_bytes(path, "NumPy files", most)
    return _array(io.BytesIO(content), len(content), str(path))


def npy_header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """(shape, type) of an array in C order, else :class:`UserError`; the file is then at its first value."""
    shape, dtype, order, _ = _header(file, name)
    if order != "C":
        raise UserError(f"{name} is stored in Fortran order. Save numpy.ascontiguousarray of it.")
    return shape, dtype


def _array(file: IO[bytes], size: int, name: str) -> NDArray[Any]:
    shape, dtype, order, length = _header(file, name)
    content = size - length
    if len(shape) > _MOST_DIMENSIONS or math.prod(shape) * dtype.itemsize != content:
        raise UserError(f"{name} is damaged: it declares the shape {shape} of {dtype} for {content} bytes.")
    buffer = strict_zip.fill(file, content)
    try:
        found: NDArray[Any] = np.ndarray(shape, dtype, buffer, order=order)
        return _checked(found.astype(dtype.newbyteorder("="), order="K", copy=False), name)
    except ValueError as error:
        raise UserError(f"{name} is damaged ({error}).") from None


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any], Any, int]:
    """(shape, type, order, length of the header in bytes)."""
    start = file.read(10)
    wide = start[6:7] in (b"\x02", b"\x03")
    start += file.read(2) if wide else b""
    if not start.startswith(b"\x93NUMPY") or len(start) < (12 if wide else 10):
        raise UserError(f"{name} is damaged: it does not begin as an array of NumPy.")
    (length,) = struct.unpack("<I" if wide else "<H", start[8:])
    text = file.read(min(length, _LONGEST_HEADER)).decode("latin-1")
    header = _HEADER.fullmatch(text) if len(text) == length else None
    if header is None:
        raise UserError(f"{name} is damaged: its description of the array cannot be read.")
    dtype = _dtype(header["descr"], name)
    shape = tuple(int(part.rstrip("L")) for part in re.findall(r"\d+L?", header["shape"]))
    return shape, dtype, "F" if header["order"] == "True" else "C", len(start) + length


def _dtype(descr: str, name: str) -> np.dtype[Any]:
    found = _DTYPE.fullmatch(descr)
    if found is not None:
        size = int(found["size"])
        known = range(1, _LONGEST_TEXT) if found["kind"] == "U" else _SIZES[found["kind"]]
        if size in known:
            return np.dtype(descr.strip("'"))
    if re.search(r"'[<>|=]?O\d*'", descr):
        raise UserError(f"{name} holds Python objects, which could run code. Save plain arrays of numbers.")
    raise UserError(f"{name} is an array of the type {descr[:60]}, which is not read. Save numbers or text.")


def _checked(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The array itself; a :class:`UserError` for bytes that are no value of its type."""
    if array.dtype.kind == "b" and array.size and array.view(np.uint8).max() > 1:
        raise UserError(f"{name} is damaged: it holds bytes that are neither true nor false.")
    if array.dtype.kind == "U" and array.size:
        points = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
        if points.max(initial=0) > 0x10FFFF or ((points >= 0xD800) & (points <= 0xDFFF)).any():
            raise UserError(f"{name} holds text with characters that do not exist.")
    return array
