"""The calls in a pickle of ``torch.save``, with inert values in place of tensors and objects."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

_LONGEST_KEY = 1000
_MOST_DIMENSIONS = 64
# Names that torch's weights-only reader accepts. All others stand for objects of other programs.
WEIGHTS_ONLY = re.compile(
    r"torch\._utils\._rebuild_\w+|torch(\.cuda)?\.\w*(Storage|Tensor)|torch\.nn\.parameter\.Parameter"
    r"|torch\.storage\.\w+Storage|torch\.serialization\._get_layout"
    r"|torch\.(Size|device|\w*int\d+|b?float\d+\w*|complex\d+|bool|per_\w+)"
    r"|torch\._tensor\._rebuild_from_type_v2|collections\.(OrderedDict|Counter)|_codecs\.encode"
    r"|(builtins|__builtin__)\.(bytearray|set|complex)"
)
_STORAGES: Mapping[str, str] = {
    "UntypedStorage": "uint8",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "BoolStorage": "bool",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ShortStorage": "int16",
    "FloatStorage": "float32",
    "IntStorage": "int32",
    "DoubleStorage": "float64",
    "LongStorage": "int64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
"""The type of the values."""
_DTYPE_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("uint8", "int8", "bool", "float8_e4m3fn", "float8_e5m2"), 1),
    **dict.fromkeys(("uint16", "int16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("uint32", "int32", "float32"), 4),
    **dict.fromkeys(("uint64", "int64", "float64", "complex64"), 8),
    "complex128": 16,
}
_CODECS = ("latin1", "latin-1", "utf-8", "ascii")
_UNREAD_TENSORS = {
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without values (on the meta device)",
    "_rebuild_wrapper_subclass": "a tensor of a special class",
}
SAVE_WEIGHTS = "Save the weights alone: torch.save(model.state_dict(), path)."
COPY_AGAIN = "Download or copy it again."


class RefusedPickleError(Exception):
    """Why a pickle is not read, as the predicate of a sentence about the file; ``advice`` follows it."""

    def __init__(self, reason: str, advice: str = SAVE_WEIGHTS) -> None:
        super().__init__(reason)
        self.advice = advice


@dataclass(frozen=True)
class Global:
    """An imported name."""

    name: str

    @property
    def is_foreign(self) -> bool:
        """Whether it names something of another program, which nothing stands for."""
        return not WEIGHTS_ONLY.fullmatch(self.name)


@dataclass(frozen=True)
class Storage:
    """The values of one or more tensors, stored beside the pickle."""

    key: str
    dtype: str
    bytes: int

    @property
    def item_bytes(self) -> int:
        """Of one value."""
        return _DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class DescribedTensor:
    """A tensor that lies within its storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    is_view: bool = False
    """Whether its values are those of the storage negated or conjugated."""

    @property
    def bytes(self) -> int:
        """Of all its values; a tensor that repeats values (with strides of 0) is larger than its storage."""
        return math.prod(self.shape) * _DTYPE_BYTES[self.dtype]


@dataclass(frozen=True)
class Inert:
    """An object whose content does not matter."""


@dataclass(eq=False, slots=True)
class StandIn:
    """In place of an object of another program: what the pickle gives to it. Nothing is created or called."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)
    """Of a kind of dict."""
    items: list[Any] = field(default_factory=list)
    """Of a kind of list or set."""


def call(function: Any, arguments: Any) -> Any:
    """The inert result of one of the calls that the weights-only reader makes; else a stand-in.

    Raises:
        RefusedPickleError: for unusual arguments, and for tensors that are not ordinary.
    """
    if not isinstance(function, Global | StandIn) or not isinstance(arguments, tuple):
        raise RefusedPickleError("calls something that is not a function")
    if function == Global("builtins.bytes") and not arguments:
        # How protocol 2 writes bytes of length 0.
        return b""
    if isinstance(function, StandIn) or function.is_foreign:
        return StandIn(function.name, arguments)
    last = function.name.rpartition(".")[2]
    match (function.name, *arguments):
        case ("torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2", storage, *rest):
            return replace(_tensor(storage, *rest[:3]), is_view=any(rest[5:]))
        case ("torch._utils._rebuild_tensor_v3", storage, offset, shape, stride, _, _, Global() as kind, *_):
            return _tensor(storage, offset, shape, stride, kind.name.removeprefix("torch."))
        case ("torch._tensor._rebuild_from_type_v2", Global() as inner, _, tuple() as own, *_):
            return call(inner, own)
        case (
            "torch._utils._rebuild_parameter"
            | "torch._utils._rebuild_parameter_with_state"
            | "torch._utils._rebuild_device_tensor_from_cpu_tensor"
            | "torch.nn.parameter.Parameter",
            DescribedTensor() as tensor,
            *_,
        ):
            return tensor
        case ("collections.OrderedDict" | "collections.Counter",):
            return {}
        case ("collections.OrderedDict", list() as pairs):
            return {key_of(pair[0]): pair[1] for pair in pairs}
        case ("collections.Counter", dict() as counts):
            return dict(counts)
        case ("builtins.set", list() | tuple() as items):
            return [key_of(item) for item in items]
        case ("torch.Size", tuple() | list() as sizes):
            return tuple(sizes)
        case ("_codecs.encode", str() as text, str() as codec) if codec in _CODECS:
            return text.encode(codec, "replace")
        case ("builtins.bytearray",) | ("builtins.bytearray", bytes()):
            return Inert()
        case ("builtins.complex", int() | float(), int() | float()) | ("torch.device", str(), *_):
            return Inert()
        case ("torch.serialization._get_layout", str()):
            return Inert()
    if last in _UNREAD_TENSORS:
        raise RefusedPickleError(f"holds {_UNREAD_TENSORS[last]}")
    raise RefusedPickleError(f"calls {function.name[:80]} in an unusual way")


def stored_values(reference: Any) -> Storage | Global:
    """What a persistent id refers to: ("storage", type, key, device, number of values).

    The oldest format adds None; a view of another storage would be in its place. It also gives classes of
    pickled modules in this way, with their source code.
    """
    match reference:
        case ("storage", Global() as kind, str() as key, str(), int() as count) | (
            "storage",
            Global() as kind,
            str() as key,
            str(),
            int() as count,
            None,
        ) if 0 <= count < 2**63:
            dtype = _STORAGES.get(kind.name.rpartition(".")[2])
            if dtype is None:
                raise RefusedPickleError(f"holds values of the unknown type {kind.name[:60]}")
            return Storage(key, dtype, count * _DTYPE_BYTES[dtype])
        case ("module", Global() as kind, *_):
            return kind
    raise RefusedPickleError("refers to values in an unusual way")


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, dtype: str | None = None) -> DescribedTensor:
    if isinstance(storage, StandIn) and storage.name == "torch.storage._load_from_bytes":
        raise RefusedPickleError("was written by pickle, not by torch.save")
    if not isinstance(storage, Storage) or not _sizes(shape) or not _sizes(stride) or not _sizes((offset,)):
        raise RefusedPickleError("describes a tensor in an unusual way")
    kind = dtype or storage.dtype
    item = _DTYPE_BYTES.get(kind, 0)
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=False))
    inside = not math.prod(shape) or (last + 1) * item <= storage.bytes
    if len(shape) != len(stride) or not item or not inside:
        raise RefusedPickleError("describes a tensor that lies outside its values")
    return DescribedTensor(storage, kind, offset, shape, stride)


def _sizes(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) > _MOST_DIMENSIONS:
        return False
    return all(type(one) is int and 0 <= one < 2**63 for one in value)


def key_of(value: Any) -> Any:
    """A key of a dict: hashing nested tuples could take for ever."""
    parts = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(part, (str, int, float, bytes, Global, StandIn)) or part is None for part in parts):
        raise RefusedPickleError("has a key that is neither text nor a number")
    if isinstance(value, str) and (len(value) > _LONGEST_KEY or not _is_text(value)):
        raise RefusedPickleError("has a name that is too long, or is not valid text")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
