"""Recognise a checkpoint file by its first bytes. Without torch, whose import takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from robust_eval.core import regular_file, strict_safetensors
from robust_eval.core.errors import UserError
from robust_eval.models.loading import pickle_scan
from robust_eval.models.loading.pickle_calls import COPY_AGAIN, SAVE_WEIGHTS

LARGEST = 32 * 2**30
"""Largest size of a file in bytes."""
LIBRARIES = ("robustbench", "timm", "torchvision", "hf-hub")
"""Beginnings of the names of models that are no files."""
_OTHER_FORMATS = {
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"\xfd7zXZ": "an xz archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"Rar!": "a RAR archive: unpack it first",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
}


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


def check(path: Path) -> Literal["torch", "safetensors"]:
    """The format of a file.

    Raises:
        UserError: if it does not exist, is no regular file or empty, cannot be read, or is not a checkpoint;
            the message names the kind of file.
    """
    with regular_file.opened(path, "checkpoints", LARGEST) as file:
        head = file.read(1024)
    if not head:
        raise UserError(f"{path} is empty (0 bytes). {COPY_AGAIN}")
    if _is_safetensors(head):
        return "safetensors"
    if not head.startswith((b"PK", b"\x80")):
        raise UserError(_what_else(path, head))
    if not head.startswith(b"PK") and not pickle_scan.is_torch_legacy(head):
        raise UserError(_not_torch_save(path))
    return "torch"


def _is_safetensors(head: bytes) -> bool:
    longest = strict_safetensors.LARGEST_HEADER
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= longest


def _not_torch_save(path: Path) -> str:
    wanted = pickle_scan.wanted_globals(path)
    imports = f" that imports {', '.join(wanted[:5])}" if wanted else ""
    return f"{path} is a plain pickle{imports}, not written by torch.save, and was not opened. {SAVE_WEIGHTS}"


def _what_else(path: Path, head: bytes) -> str:
    """The error message for a file that is no checkpoint."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            f"{path} is a web page, not a checkpoint: the server returned HTML (a login or "
            "confirmation page?). Download it again in a browser."
        )
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the file itself. Fetch it with: git lfs pull."
    if head[257:262] == b"ustar":
        return (
            f"{path} is a tar archive, not a checkpoint, or a torch checkpoint from before 2017, which the "
            f"weights-only reader cannot open. {SAVE_WEIGHTS}"
        )
    for magic, name in _OTHER_FORMATS.items():
        if head.startswith(magic):
            return f"{path} is {name}, not a checkpoint."
    try:
        first_line = head.decode("utf-8", errors="ignore" if len(head) == 1024 else "strict").splitlines()[0]
    except (UnicodeDecodeError, IndexError):
        first_line = ""
    if first_line and first_line.isprintable():
        return f"{path} is a text file, not a checkpoint. It starts with '{first_line[:40]}'."
    start = head[:4].hex(" ")
    return f"{path} is not a checkpoint: it starts with {start}. Expected a torch or safetensors file."
