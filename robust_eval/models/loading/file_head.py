"""Recognise a checkpoint file by its first bytes. Without torch, whose import takes seconds."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Literal

from robust_eval.core import regular_file, strict_json, strict_safetensors
from robust_eval.core.errors import UserError
from robust_eval.models.loading import other_formats
from robust_eval.models.loading.pickle_calls import COPY_AGAIN

LARGEST = 32 * 2**30
"""Largest size of a file in bytes."""
LIBRARIES = ("robustbench", "timm", "torchvision", "hf-hub")
"""Beginnings of the names of models that are no files."""
_INDEX = ".safetensors.index.json"
_MOST_PARTS = 1000


def is_file(source: str) -> bool:
    """Whether a checkpoint is a file, not a model of a library such as ``timm:NAME``."""
    return source.partition(":")[0] not in LIBRARIES


def split_source(source: str) -> tuple[Path, str | None]:
    """Split ``FILE#part`` into path and part; an existing file of the full name takes precedence."""
    path = Path(source).expanduser()
    if path.exists() or "#" not in source:
        return path, None
    file, _, part = source.rpartition("#")
    return Path(file).expanduser(), part


def check_source(source: str) -> None:
    """Apply :func:`check` to the file of a checkpoint as commands name it."""
    if is_file(source):
        check(split_source(source)[0])


def check(path: Path) -> Literal["torch", "safetensors", "index"]:
    """The format of a file; ``index``: that of safetensors files.

    Raises:
        UserError: if it does not exist, is no regular file or empty, cannot be read, or is not a checkpoint;
            the message names the kind of file.
    """
    if path.is_dir():
        raise UserError(other_formats.of_folder(path))
    with regular_file.opened(path, "checkpoints", LARGEST) as file:
        head = file.read(1024)
    if not head:
        raise UserError(f"{path} is empty (0 bytes). {COPY_AGAIN}")
    if path.name.endswith(_INDEX):
        for part in parts(path):
            check_part(part)
        return "index"
    if _is_safetensors(head):
        _refuse_one_part(path)
        return "safetensors"
    if not head.startswith((b"PK", b"\x80")) or other_formats.of_suffix(path):
        raise UserError(other_formats.of_file(path, head))
    return "torch"


def check_part(path: Path) -> None:
    """Raise :class:`UserError` if one of several safetensors files is missing or of another format."""
    with regular_file.opened(path, "checkpoints", LARGEST) as file:
        if not _is_safetensors(file.read(1024)):
            raise UserError(f"{path} is not a safetensors file. {COPY_AGAIN}")


def parts(path: Path) -> tuple[Path, ...]:
    """The safetensors files that an index names: in its folder, in order of their names.

    Raises:
        UserError: if the index cannot be read, or names other files.
    """
    value = strict_json.read(path)
    names = value.get("weight_map") if isinstance(value, dict) else None
    files = sorted({str(name) for name in names.values()}) if isinstance(names, dict) else []
    if not 0 < len(files) <= _MOST_PARTS or not all(map(_is_part, files)):
        raise UserError(f"{path} names no safetensors files in its own folder. {COPY_AGAIN}")
    return tuple(path.with_name(name) for name in files)


def sha256(path: Path) -> str:
    """SHA-256 of a checkpoint file; of an index: of its digest and those of its parts, one a line."""
    own = regular_file.sha256(path, "checkpoints", LARGEST)
    if not path.name.endswith(_INDEX):
        return own
    digests = [own, *(regular_file.sha256(part, "checkpoints", LARGEST) for part in parts(path))]
    return hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest()


def _is_part(name: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+\.safetensors", name))


def _refuse_one_part(path: Path) -> None:
    found = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})\.safetensors", path.name)
    if found and int(found[2]) > 1:
        raise UserError(
            f"{path} is one of {int(found[2])} parts of a checkpoint. Name their index: "
            f"{path.with_name(found[1] + _INDEX)}."
        )


def _is_safetensors(head: bytes) -> bool:
    longest = strict_safetensors.LARGEST_HEADER
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= longest
