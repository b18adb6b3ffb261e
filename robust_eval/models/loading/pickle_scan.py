"""List the globals that a pickle imports, without unpickling it; harmless replacements for common ones.

Public checkpoints often contain NumPy scalars (an accuracy) or a Namespace (the options of a script) next to
the weights. The weights-only reader refuses both. The replacements below are called instead: they only
create plain data and execute nothing of NumPy or of the file.
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
from pathlib import Path
from typing import Any

from robust_eval.core import regular_file, strict_zip
from robust_eval.core.errors import UserError
from robust_eval.models.loading.pickle_dry_run import MOST_OPERATIONS

# The legacy format of torch.save starts with this pickled number.
_LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
LARGEST_PICKLE = 64 * 2**20

# Names that the weights-only reader accepts; only used for error messages.
_HARMLESS = re.compile(
    r"torch\._utils\._rebuild_\w+|torch(\.cuda)?\.\w*(Storage|Tensor)|torch\.nn\.parameter\.Parameter"
    r"|torch\.storage\.\w+Storage|torch\.serialization\._get_layout"
    r"|torch\.(Size|device|\w*int\d+|b?float\d+\w*|complex\d+|bool|per_\w+)"
    r"|torch\._tensor\._rebuild_from_type_v2|collections\.(OrderedDict|Counter)|_codecs\.encode"
    r"|(builtins|__builtin__)\.(bytearray|set|complex)"
)


class Opaque:
    """Replaces an object that is not needed; its content is discarded."""

    def __new__(cls, *_: Any, **__: Any) -> Opaque:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Discard the state."""


class DType:
    """Replaces ``numpy.dtype('f8', ...)``: stores kind and byte order."""

    def __init__(self, kind: Any = "", *_: Any) -> None:
        self.kind, self.order = kind, "<"

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "b1": "?"}


def scalar(dtype: Any, data: Any = None) -> Any:
    """Replaces NumPy scalars by Python numbers."""
    code = _FORMATS.get(str(dtype.kind)) if isinstance(dtype, DType) else None
    if code is None or not isinstance(data, bytes) or len(data) != struct.calcsize(code):
        return Opaque()
    return struct.unpack(dtype.order + code, data)[0]


def discarded_array(*_: Any) -> Opaque:
    """Replaces a NumPy array."""
    return Opaque()


REPLACEMENTS: list[Any] = [
    (DType, "numpy.dtype"),
    *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((discarded_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (Opaque, "numpy.ndarray"),
    (Opaque, "argparse.Namespace"),
]
HARMLESS_OBJECTS = frozenset(name for _, name in REPLACEMENTS)


def is_torch_legacy(head: bytes) -> bool:
    """Whether a file has the format of ``torch.save`` before torch 1.6."""
    return head.startswith(_LEGACY_MAGIC)


def wanted_globals(path: Path) -> list[str]:
    """Globals that the pickles in a file import and the weights-only reader refuses, in order."""
    names: dict[str, None] = {}
    for stream in _streams(path):
        _walk(stream, names)
    return [name for name in names if name not in HARMLESS_OBJECTS and not _HARMLESS.fullmatch(name)]


def _streams(path: Path) -> list[bytes]:
    """The pickles of a zip archive, or the whole file; not more than LARGEST_PICKLE bytes of it."""
    try:
        with regular_file.opened(path, "checkpoints", 2**62) as file:
            if not file.read(2).startswith(b"PK"):
                file.seek(0)
                return [file.read(LARGEST_PICKLE)]
            with strict_zip.opened(file, file.seek(0, 2), ratio=1000, free=LARGEST_PICKLE) as archive:
                pickles = {name: size for name, size in archive.sizes.items() if name.endswith(".pkl")}
                return (
                    [archive.read(name) for name in pickles] if sum(pickles.values()) < LARGEST_PICKLE else []
                )
    except (UserError, strict_zip.UnusableZipError):
        return []


def _walk(data: bytes, names: dict[str, None]) -> None:
    """Collect the globals of consecutive pickles, up to the first bytes that are not a pickle."""
    stream = io.BytesIO(data)
    strings: list[str] = []
    memo: dict[Any, str] = {}
    operations = 0
    try:
        while stream.tell() < len(data):
            for opcode, argument, _ in pickletools.genops(stream):
                operations += 1
                if operations > MOST_OPERATIONS:
                    return
                if opcode.name in ("GLOBAL", "INST"):
                    names[str(argument).replace(" ", ".", 1)] = None
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    names[f"{strings[-2]}.{strings[-1]}"] = None
                elif isinstance(argument, str):
                    strings.append(argument)
                elif opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                    # Only strings matter: module and name of STACK_GLOBAL.
                    memo[len(memo) if argument is None else argument] = strings[-1] if strings else ""
                elif opcode.name in ("GET", "BINGET", "LONG_BINGET") and argument in memo:
                    strings.append(memo[argument])
    except Exception:
        # A damaged stream: report the names found so far.
        return
