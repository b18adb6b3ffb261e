"""Take the tensors out of stand-ins, which the dry run puts in place of objects of other programs.

===============================  =====================================================================
a pickled module                 the dict of its parameters and buffers, as ``state_dict()`` names them
a kind of dict, list or set      a dict or list
a NumPy array or number          the array or number
any other object                 a dict of those attributes in which there are tensors, if there are any
===============================  =====================================================================

Everything else becomes an :class:`~robust_eval.models.loading.pickle_calls.Inert`, also what an object that
contains itself leads back to. What a function of another program would have returned is not known.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from robust_eval.core import plain_values
from robust_eval.models.loading.pickle_calls import (
    DescribedTensor,
    Global,
    Inert,
    RefusedPickleError,
    StandIn,
    Storage,
)

_MOST_TENSORS = 20_000
"""More than a pickle can describe one by one: modules that contain one another repeat their tensors."""
_NUMPY = ("numpy.core.", "numpy._core.")
_DTYPES: Mapping[str, tuple[str, str]] = {
    "f8": ("float64", "d"),
    "f4": ("float32", "f"),
    "f2": ("float16", "e"),
    "i8": ("int64", "q"),
    "i4": ("int32", "i"),
    "i2": ("int16", "h"),
    "i1": ("int8", "b"),
    "u8": ("uint64", "Q"),
    "u4": ("uint32", "I"),
    "u2": ("uint16", "H"),
    "u1": ("uint8", "B"),
    "b1": ("bool", "?"),
}
"""Name of the type and code of :mod:`struct` by the name in ``numpy.dtype``."""


@dataclass(frozen=True, eq=False)
class DescribedArray:
    """A NumPy array, whose values are in the pickle."""

    content: bytes
    dtype: str
    """Name of the type in NumPy and torch."""
    big_endian: bool
    shape: tuple[int, ...]
    by_columns: bool
    """Whether the first index changes fastest (Fortran's order)."""

    @property
    def bytes(self) -> int:
        """Of all values."""
        return len(self.content)


def replaced(value: Any) -> Any:
    """``value`` of a described pickle with plain values, described tensors and arrays in place of stand-ins.

    Raises:
        RefusedPickleError: if it is nested too deeply, or a module has too many tensors.
    """
    return _Replacement().of(value, 0)


class _Replacement:
    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._kept: list[Any] = []
        """What has an entry in ``_done``: as long as it exists, no other object gets its number."""
        self._with_tensors: dict[int, bool] = {}

    def of(self, value: Any, level: int) -> Any:
        if level > plain_values.MOST_LEVELS:
            raise RefusedPickleError(f"is nested more than {plain_values.MOST_LEVELS} levels deep")
        if isinstance(value, Global | Storage):
            return Inert()
        if not isinstance(value, dict | list | tuple | StandIn):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        # For a value that contains itself: a dict or list does so afterwards, another object does not.
        started: Any = {} if isinstance(value, dict) else [] if isinstance(value, list) else Inert()
        self._done[id(value)] = started
        self._kept.append(value)
        if isinstance(value, dict):
            started.update(self._entries(value, level))
        elif isinstance(value, list):
            started.extend(self.of(item, level + 1) for item in value)
        elif isinstance(value, tuple):
            self._done[id(value)] = tuple(self.of(item, level + 1) for item in value)
        else:
            self._done[id(value)] = self._object(value, level)
        return self._done[id(value)]

    def _entries(self, value: dict[Any, Any], level: int) -> dict[Any, Any]:
        """Those with plain keys."""
        return {key: self.of(entry, level + 1) for key, entry in value.items() if _is_plain_key(key)}

    def _object(self, value: StandIn, level: int) -> Any:
        if value.name.startswith(_NUMPY):
            return _numpy(value)
        attributes = _attributes(value)
        if isinstance(attributes.get("_parameters"), dict) and isinstance(attributes.get("_modules"), dict):
            return self._module(attributes, level)
        if value.items and not value.entries:
            return [self.of(item, level + 1) for item in value.items]
        found = self._entries(value.entries, level)
        found |= {
            key: entry
            for key, entry in self._entries(attributes, level).items()
            if key not in found and self._holds_tensors(entry)
        }
        if found:
            return found
        arguments = [self.of(item, level + 1) for item in value.arguments]
        return arguments if self._holds_tensors(arguments) else Inert()

    def _module(self, attributes: dict[Any, Any], level: int) -> dict[str, Any]:
        """The state dict of a module; buffers that it would leave out are left out."""
        left_out = attributes.get("_non_persistent_buffers_set")
        buffers = attributes.get("_buffers")
        named = {**attributes["_parameters"], **(buffers if isinstance(buffers, dict) else {})}
        found: dict[str, Any] = {
            key: entry
            for key, entry in named.items()
            if isinstance(key, str)
            and isinstance(entry, DescribedTensor)
            and not (isinstance(left_out, list | tuple) and key in left_out)
        }
        for name, module in attributes["_modules"].items():
            inside = self.of(module, level + 1)
            if isinstance(name, str) and isinstance(inside, dict):
                found |= {f"{name}.{key}": entry for key, entry in inside.items() if isinstance(key, str)}
            if len(found) > _MOST_TENSORS:
                raise RefusedPickleError(f"holds a module of more than {_MOST_TENSORS:,} tensors")
        return found

    def _holds_tensors(self, value: Any) -> bool:
        if isinstance(value, DescribedTensor | DescribedArray):
            return True
        if not isinstance(value, dict | list | tuple):
            return False
        if id(value) not in self._with_tensors:
            self._with_tensors[id(value)] = False
            self._kept.append(value)
            entries = value.values() if isinstance(value, dict) else value
            self._with_tensors[id(value)] = any(map(self._holds_tensors, entries))
        return self._with_tensors[id(value)]


def _is_plain_key(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return not any(isinstance(part, Global | StandIn) for part in parts)


def _attributes(value: StandIn) -> dict[Any, Any]:
    """The entries of all dicts in the state: attributes, and those in slots."""
    found: dict[Any, Any] = {}
    for state in value.state:
        for part in state if isinstance(state, tuple) else (state,):
            found |= part if isinstance(part, dict) else {}
    return found


def _numpy(value: StandIn) -> Any:
    """A number or an array of NumPy; Inert for other objects, and for types without numbers."""
    match (value.name.rpartition(".")[2], *value.arguments):
        case ("scalar", StandIn() as dtype, bytes() as content):
            return _number(dtype, content)
        case ("_reconstruct", *_):
            for state in value.state:
                match state:
                    case (_, tuple() as shape, StandIn() as dtype, bool() as by_columns, bytes() as content):
                        return _array(dtype, content, shape, by_columns)
        case ("_frombuffer", bytes() | bytearray() as content, StandIn() as dtype, tuple() as shape, order):
            return _array(dtype, bytes(content), shape, order == "F")
    return Inert()


def _number(dtype: StandIn, content: bytes) -> Any:
    name, code, big_endian = _type_of(dtype)
    if not name or len(content) != struct.calcsize(code):
        return Inert()
    return struct.unpack((">" if big_endian else "<") + code, content)[0]


def _array(dtype: StandIn, content: bytes, shape: tuple[Any, ...], by_columns: bool) -> Any:
    name, code, big_endian = _type_of(dtype)
    if not name or not all(type(size) is int and size >= 0 for size in shape):
        return Inert()
    if len(content) != math.prod(shape) * struct.calcsize(code):
        raise RefusedPickleError("describes an array in an unusual way")
    return DescribedArray(content, name, big_endian, shape, by_columns)


def _type_of(dtype: StandIn) -> tuple[str, str, bool]:
    """(name, code of ``struct``, whether big-endian); empty for a type that is not a kind of number."""
    kind = dtype.arguments[0] if dtype.name == "numpy.dtype" and dtype.arguments else ""
    name, code = _DTYPES.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
    orders = [state[1] for state in dtype.state if isinstance(state, tuple) and len(state) > 1]
    return name, code, orders[:1] == [">"]


def tensors_in(value: Any) -> Iterator[DescribedTensor | DescribedArray]:
    """All described tensors and arrays. Raises :class:`plain_values.UnboundedError`, as it does."""
    for item in plain_values.items(value):
        if isinstance(item, DescribedTensor | DescribedArray):
            yield item
