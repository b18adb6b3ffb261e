"""Read checkpoint files, which are untrusted: only weights.

Pickles are followed without creating anything. Those that consist of tensors and plain values are then read
with ``torch.load(weights_only=True)``; the argument is explicit because an environment variable overrides
the default. From others, the tensors are made from the bytes of their values alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robust_eval.core import regular_file, strict_json, strict_safetensors, strict_zip
from robust_eval.core.errors import UserError
from robust_eval.models.loading import described_tensors, file_head, torch_file_check
from robust_eval.models.loading.file_head import LARGEST
from robust_eval.models.loading.pickle_calls import COPY_AGAIN, RefusedPickleError
from robust_eval.models.loading.state_dict_diff import name_some
from robust_eval.models.out_of_memory import is_out_of_memory

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
    foreign: tuple[str, ...] = ()
    """Names of other programs that the pickle imports. Their objects were not created."""

    @property
    def notes(self) -> tuple[str, ...]:
        """For the result."""
        shown = name_some(
            [re.sub(r"[^\w.]", "?", name)[:100] for name in self.foreign if name[:6] != "numpy."]
        )
        return (f"objects of other programs were not created: {shown}",) if shown else ()


def read(path: Path) -> Contents:
    """Read a file to the CPU.

    Raises:
        UserError: if it is not a checkpoint; the message names the kind of file.
    """
    kind = file_head.check(path)
    digest = file_head.sha256(path)
    if kind == "torch":
        value, foreign = _read_torch(path)
        return Contents(value, digest, kind, foreign=foreign)
    value, metadata = _read_safetensors(path) if kind == "safetensors" else (_read_parts(path), {})
    return Contents(value, digest, "safetensors", metadata)


def _read_parts(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of several safetensors files, whose index ``path`` is."""
    found: dict[str, torch.Tensor] = {}
    for part in file_head.parts(path):
        tensors, _ = _read_safetensors(part)
        if tensors.keys() & found.keys():
            raise UserError(f"{part} contains tensors of another part. {COPY_AGAIN}")
        found |= tensors
    if found.keys() != strict_json.read(path)["weight_map"].keys():
        raise UserError(f"The parts of {path} do not contain the tensors that it names. {COPY_AGAIN}")
    return found


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


def _read_torch(path: Path) -> tuple[Any, tuple[str, ...]]:
    """The value in a file of torch.save or pickle, and the names of other programs that it imports.

    Objects of other programs are not created: where there are any, only the tensors and plain values are.
    """
    try:
        with regular_file.opened(path, "checkpoints", LARGEST) as file:
            checked = torch_file_check.check(file)
            if not _is_own(checked.value):
                refuse_old_torch(str(path))
            if not checked.ordinary:
                with torch_file_check.values_of(file, checked) as read_storage:
                    return described_tensors.made(checked.value, read_storage), checked.foreign
        return torch.load(path, map_location="cpu", weights_only=True), ()
    except UserError:
        raise
    except RefusedPickleError as error:
        raise UserError(f"{path} {error}. {error.advice}") from None
    except Exception as error:
        if is_out_of_memory(error):
            raise regular_file.too_large(path) from None
        # A damaged stream can raise any exception in the reader.
        raise UserError(
            f"{path} is a damaged checkpoint: it cannot be read completely. {COPY_AGAIN}"
        ) from None


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
