"""Read untrusted safetensors files: the header is checked completely before anything is read.

Format: 8 bytes with the length of the header, the header (JSON), and the tensors' bytes without gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import regular_file, strict_json
from robust_eval.core.errors import UserError

LARGEST = 64 * 2**30
"""Largest size of a file in bytes."""
LARGEST_HEADER = 16 * 2**20
_MOST_DIMENSIONS = 16
ITEM_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
"""Bytes of one value, by the name of its type."""
_NUMPY = {
    "BOOL": "?",
    **{f"{kind}{8 * size}": f"<{kind.lower()}{size}" for kind in "UI" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": f"<f{size}" for size in (2, 4, 8)},
}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    """Position of its bytes behind the header."""
    size: int
    """In bytes."""


class TensorFile:
    """An open file, whose header has been checked."""

    def __init__(self, file: BufferedReader, name: str, size: int) -> None:
        self._file, self._name = file, name
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(LARGEST_HEADER, size - 8):
            raise _damaged(name, "its header is truncated or too long")
        self._start = 8 + length
        text = file.read(length)
        try:
            header = strict_json.loads(text.decode(), f"The header of {name}")
        except UnicodeDecodeError:
            raise _damaged(name, "its header is not text") from None
        if not isinstance(header, dict):
            raise _damaged(name, "its header is not an object")
        self.metadata = _metadata(header.pop("__metadata__", {}), name)
        """Text by key."""
        self.tensors = {key: _stored(value, key, name) for key, value in header.items()}
        """The description of each tensor, by name."""
        _check_positions(self.tensors, size - self._start, name)

    def content(self, key: str) -> bytearray:
        """The bytes of a tensor."""
        stored = self.tensors[key]
        self._file.seek(self._start + stored.start)
        content = bytearray(stored.size)
        if self._file.readinto(content) != stored.size:
            raise _damaged(self._name, "it became shorter while it was read")
        if stored.dtype == "BOOL" and content and max(content) > 1:
            raise _damaged(self._name, f"{key!a} holds bytes that are neither true nor false")
        return content

    def array(self, key: str) -> NDArray[Any]:
        """A tensor as an array.

        Raises:
            UserError: for a type that NumPy does not have (bfloat16 and 8-bit floating-point numbers).
        """
        stored = self.tensors[key]
        if stored.dtype not in _NUMPY:
            raise UserError(f"{self._name}: {key!a} has the type {stored.dtype}. Save it as F32.")
        return np.frombuffer(self.content(key), _NUMPY[stored.dtype]).reshape(stored.shape)

    def mapped(self, key: str, path: Path) -> NDArray[Any]:
        """A tensor of numbers that is not empty, as pages of the open file, which is at ``path``."""
        stored = self.tensors[key]
        if stored.dtype not in _NUMPY or stored.dtype == "BOOL":
            return self.array(key)
        start = self._start + stored.start
        return np.memmap(path, _NUMPY[stored.dtype], "r", start, stored.shape)


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    """Open a file for reading.

    Raises:
        UserError: if it cannot be opened, or its header is damaged or does not describe exactly its content.
    """
    with regular_file.opened(path, "safetensors files", LARGEST) as file:
        size = file.seek(0, 2)
        file.seek(0)
        yield TensorFile(file, str(path), size)


def _damaged(name: str, reason: str) -> UserError:
    return UserError(f"{name} is not a safetensors file, or a damaged one ({reason}). Copy it again.")


def _metadata(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise _damaged(name, "its metadata are not text")
    return value


def _stored(value: Any, key: str, name: str) -> StoredTensor:
    """Check the description of one tensor."""
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(name, f"{key!a} is not described as a tensor")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _damaged(name, f"{key!a} has an unknown type")
    if not _whole_numbers(shape) or len(shape) > _MOST_DIMENSIONS:
        raise _damaged(name, f"{key!a} has an unusable shape")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise _damaged(name, f"{key!a} has an unusable position")
    start, end = offsets
    if end - start != math.prod(shape) * ITEM_BYTES[dtype]:
        raise _damaged(name, f"{key!a} has {end - start} bytes for the shape {shape} of {dtype}")
    if not _addressable(shape):
        raise _damaged(name, f"{key!a} has an unusable shape")
    return StoredTensor(dtype, tuple(shape), start, end - start)


def _addressable(shape: Sequence[int]) -> bool:
    """Whether NumPy and torch can describe an array: also an empty one may not have sizes without limit."""
    return math.prod(max(size, 1) for size in shape) < 2**59  # of at most 16 bytes


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def _check_positions(tensors: Mapping[str, StoredTensor], size: int, name: str) -> None:
    """The tensors must fill the file, without gaps and without overlap."""
    position = 0
    for stored in sorted(tensors.values(), key=lambda one: (one.start, one.size)):
        if stored.start != position:
            raise _damaged(name, "its tensors overlap, or leave a gap")
        position += stored.size
    if position != size:
        raise _damaged(
            name, f"it holds {size} bytes of {position}: it is truncated, or something was appended"
        )
