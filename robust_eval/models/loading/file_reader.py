"""Read checkpoint files, which are untrusted: check size and magic bytes, then read only weights.

Pickles are read with ``torch.load(weights_only=True)``. The argument is explicit because an environment
variable overrides the default. There is no fallback to another reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robust_eval.core import regular_file, strict_safetensors, strict_zip
from robust_eval.core.errors import UserError
from robust_eval.models.loading import pickle_scan, torch_file_check
from robust_eval.models.loading.pickle_calls import COPY_AGAIN, SAVE_WEIGHTS, RefusedPickleError

LARGEST = 32 * 2**30
"""Largest size of a file in bytes."""
SAFE_TORCH = "2.10"
_OWN = ({"format_version", "state_dict", "architecture"}, {"format", "version", "identity", "state"})
"""Keys of the files that this project writes: checkpoints, and resume files of training."""
_DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
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


@dataclass(frozen=True)
class Contents:
    """The contents of a checkpoint file, and the hash of its bytes."""

    value: Any
    """The object passed to ``torch.save``; for safetensors a dict of tensors."""
    sha256: str
    format: str
    """``torch`` or ``safetensors``."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The metadata in the header of a safetensors file."""


def read(path: Path) -> Contents:
    """Read a file to the CPU.

    Raises:
        UserError: if it is not a checkpoint; the message names the kind of file.
    """
    head = read_head(path)
    if _is_safetensors(head):
        value, metadata = _read_safetensors(path)
        return Contents(value, _sha256(path), "safetensors", metadata)
    if not head.startswith((b"PK", b"\x80")):
        raise UserError(_what_else(path, head))
    if not head.startswith(b"PK") and not pickle_scan.is_torch_legacy(head):
        raise UserError(_not_torch_save(path))
    return Contents(_read_torch(path), _sha256(path), "torch")


def read_head(path: Path) -> bytes:
    """The first 1024 bytes of a file.

    Raises:
        UserError: if it does not exist, is no regular file or empty, or cannot be read.
    """
    with regular_file.opened(path, "checkpoints", LARGEST) as file:
        head = file.read(1024)
    if not head:
        raise UserError(f"{path} is empty (0 bytes). {COPY_AGAIN}")
    return head


def _sha256(path: Path) -> str:
    return regular_file.sha256(path, "checkpoints", LARGEST)


def _is_safetensors(head: bytes) -> bool:
    longest = strict_safetensors.LARGEST_HEADER
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= longest


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with strict_safetensors.opened(path) as file:
        return {key: _tensor(file, key) for key in file.tensors}, file.metadata


def _tensor(file: strict_safetensors.TensorFile, key: str) -> torch.Tensor:
    stored = file.tensors[key]
    dtype = _DTYPES[stored.dtype]
    content = file.content(key)
    flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return flat.reshape(stored.shape)


def damaged_part(path: Path) -> str | None:
    """The first member of a torch zip file with a wrong checksum; None if there is none.

    torch.save writes checksums, but torch.load does not verify them. As torch can be configured to omit
    them, they are only required in files that this project wrote.
    """
    with regular_file.opened(path, "checkpoints", LARGEST) as file:
        if file.read(2) != b"PK":
            return None
        try:
            with torch_file_check.opened_zip(file) as archive:
                return archive.first_damaged()
        except strict_zip.UnusableZipError:
            return path.name


def _read_torch(path: Path) -> Any:
    try:
        with regular_file.opened(path, "checkpoints", LARGEST) as file:
            described = torch_file_check.check(file)
        if not _is_own(described):
            refuse_old_torch(str(path))
        with torch.serialization.safe_globals(pickle_scan.REPLACEMENTS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except RefusedPickleError as error:
        raise _refusal(path, str(error), error.advice) from None
    except Exception:
        # A damaged stream can raise any exception in the reader.
        raise _refusal(path, "is a damaged checkpoint: it cannot be read completely", COPY_AGAIN) from None


def refuse_old_torch(name: str) -> None:
    """Raise :class:`UserError` for a pickle of another program if this torch does not read them safely.

    Versions before 2.10 can be made to corrupt memory (CVE-2026-24747). The dry run refuses the known ways;
    files of other programs are still not given to them.
    """
    if torch.__version__ < SAFE_TORCH:
        raise UserError(
            f"{name} is a pickle of another program, which is read with torch {SAFE_TORCH} or newer (this is "
            f"{torch.__version__}). Upgrade torch, or convert the file to safetensors elsewhere."
        )


def _is_own(described: Any) -> bool:
    return isinstance(described, Mapping) and any(keys <= described.keys() for keys in _OWN)


def _refusal(path: Path, reason: str, advice: str) -> UserError:
    """The error for a file that is not read; imported code is named first."""
    wanted = pickle_scan.wanted_globals(path)
    if not wanted:
        return UserError(f"{path} {reason}. {advice}")
    shown = ", ".join(wanted[:5]) + (f" and {len(wanted) - 5} more" if len(wanted) > 5 else "")
    if any(name.startswith("torch.nn.modules") for name in wanted):
        return UserError(
            f"{path} contains a pickled model object, which would run code ({shown}). {SAVE_WEIGHTS}"
        )
    return UserError(f"{path} carries code and was not opened: its pickle imports {shown}. {SAVE_WEIGHTS}")


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
