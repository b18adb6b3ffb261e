"""Make the tensors and arrays that a followed pickle describes, from the bytes of their values alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_eval.models.loading.pickle_calls import DescribedTensor, RefusedPickleError, Storage
from robust_eval.models.loading.stand_ins import DescribedArray


def made(value: Any, read: Callable[[Storage], bytearray]) -> Any:
    """``value`` with real tensors; ``read``: the bytes of a storage. What is one object stays one.

    ``value`` has passed :func:`robust_eval.core.plain_values.items`.

    Raises:
        RefusedPickleError: for tensors that are views with other values than their storage.
    """
    return _Making(read).of(value)


class _Making:
    def __init__(self, read: Callable[[Storage], bytearray]) -> None:
        self._read = read
        self._bytes: dict[str, Tensor] = {}
        self._done: dict[int, Any] = {}

    def of(self, value: Any) -> Any:
        if not isinstance(value, DescribedTensor | DescribedArray | dict | list | tuple):
            return value
        if id(value) not in self._done:
            self._done[id(value)] = self._new(value)
        return self._done[id(value)]

    def _new(self, value: Any) -> Any:
        if isinstance(value, DescribedTensor):
            return self._tensor(value)
        if isinstance(value, DescribedArray):
            return _array(value)
        if isinstance(value, dict):
            return {key: self.of(entry) for key, entry in value.items()}
        return type(value)(self.of(entry) for entry in value)

    def _tensor(self, described: DescribedTensor) -> Tensor:
        if described.is_view:
            raise RefusedPickleError("holds a negated or conjugated tensor")
        storage, dtype = described.storage, getattr(torch, described.dtype)
        if storage.key not in self._bytes:
            content = self._read(storage)
            self._bytes[storage.key] = (
                torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)
            )
        content_B = self._bytes[storage.key]
        flat = content_B[: len(content_B) // dtype.itemsize * dtype.itemsize].view(dtype)
        return flat.as_strided(described.shape, described.stride, described.offset)


def _array(described: DescribedArray) -> Tensor:
    stored = np.dtype(described.dtype).newbyteorder(">" if described.big_endian else "<")
    flat = np.frombuffer(described.content, stored).astype(described.dtype)
    return torch.from_numpy(flat.reshape(described.shape, order="F" if described.by_columns else "C").copy())
