"""Read checkpoint files, which are untrusted: check size and magic bytes, then read only weights.

Pickles are read with ``torch.load(weights_only=True)``. The argument is explicit because an environment
variable overrides the default. There is no fallback to another reader.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from robust_eval.core.errors import UserError
from robust_eval.models.loading import pickle_scan

_ADVICE = "Save the weights alone: torch.save(model.state_dict(), path)."
_AGAIN = "Download or copy it again."
# The largest safetensors header; the limit of the library is the same.
_LARGEST_HEADER = 100_000_000
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
    if head.startswith(b"PK"):
        _check_zip(path)
    elif not head.startswith(b"\x80"):
        raise UserError(_what_else(path, head))
    elif not pickle_scan.is_torch_legacy(head):
        raise UserError(_not_torch_save(path))
    return Contents(_read_torch(path), _sha256(path), "torch")


def read_head(path: Path) -> bytes:
    """The first 1024 bytes of a file.

    Raises:
        UserError: if it does not exist, is a folder or empty, or cannot be read.
    """
    try:
        if path.is_dir():
            raise UserError(f"{path} is a folder. Name a checkpoint file in it.")
        size = path.stat().st_size
        if size == 0:
            raise UserError(f"{path} is empty (0 bytes). {_AGAIN}")
        with path.open("rb") as file:
            return file.read(1024)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist. Check the path of the checkpoint.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LARGEST_HEADER


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path} is a damaged safetensors file ({error}). {_AGAIN}") from None


def _check_zip(path: Path) -> None:
    """Refuse zip files that are truncated, are no checkpoint, or unpack to more than 20 times their size."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError):
        raise UserError(f"{path} is a damaged checkpoint: the file is truncated. {_AGAIN}") from None
    names = [member.filename for member in members]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise UserError(f"{path} is a TorchScript archive, which carries code. {_ADVICE}")
    if any(name.endswith(".npy") for name in names):
        raise UserError(
            f"{path} is a NumPy archive, not a checkpoint. For images use --data npz:{path.name}."
        )
    if not any(name.endswith("/data.pkl") for name in names):
        raise UserError(f"{path} is a zip archive without a checkpoint at its top. Unpack it first.")
    if sum(member.file_size for member in members) > 20 * path.stat().st_size + 2**20:
        raise UserError(f"{path} unpacks to more than 20 times its size and was not opened. {_AGAIN}")


def damaged_part(path: Path) -> str | None:
    """The first member of a torch zip file with a wrong checksum; None if there is none.

    torch.save writes checksums, but torch.load does not verify them. As torch can be configured to omit
    them, they are only required in files that this project wrote.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, EOFError):
        return path.name


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(pickle_scan.REPLACEMENTS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(_refusal(path)) from None
    except Exception:
        # A damaged stream can raise any exception in the reader.
        wanted = pickle_scan.wanted_globals(path)
        message = (
            _refusal(path) if wanted else f"{path} is a damaged checkpoint: it cannot be read completely."
        )
        raise UserError(message if wanted else f"{message} {_AGAIN}") from None


def _refusal(path: Path) -> str:
    """The error message for a file that the weights-only reader refused."""
    wanted = pickle_scan.wanted_globals(path)
    if not wanted:
        return (
            f"{path} was refused by the weights-only reader: it is damaged or written with another pickle "
            f"protocol than torch.save's own. {_ADVICE}"
        )
    shown = ", ".join(wanted[:5]) + (f" and {len(wanted) - 5} more" if len(wanted) > 5 else "")
    if any(name.startswith("torch.nn.modules") for name in wanted):
        return f"{path} contains a pickled model object, which would run code ({shown}). {_ADVICE}"
    return f"{path} carries code and was not opened: its pickle imports {shown}. {_ADVICE}"


def _not_torch_save(path: Path) -> str:
    wanted = pickle_scan.wanted_globals(path)
    imports = f" that imports {', '.join(wanted[:5])}" if wanted else ""
    return f"{path} is a plain pickle{imports}, not written by torch.save, and was not opened. {_ADVICE}"


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
            f"weights-only reader cannot open. {_ADVICE}"
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
