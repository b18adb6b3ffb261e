"""The evidence file: for every broken example, the adversarial image that was judged."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import regular_file, strict_json, strict_safetensors
from robust_eval.core.errors import UserError
from robust_eval.core.files import open_new
from robust_eval.core.pixels import HELD_BYTES
from robust_eval.core.types import Ints
from robust_eval.core.versions import written_by
from robust_eval.results import EVIDENCE_FILE, EvidenceRecord
from robust_eval.results.summary import concatenate

FORMAT = "2"
"""Format 1 names neither its format nor the version of robust-eval; otherwise it is the same."""
READ_FORMATS = ("1", FORMAT)


@dataclass(frozen=True)
class BrokenPart:
    """The broken examples of one unit."""

    indices: Ints
    read: Callable[[], NDArray[np.float32]]
    """Gives their images (B, C, H, W); raises LookupError if they are no longer stored."""


def write_evidence(
    path: Path, columns: Mapping[str, Sequence[BrokenPart]], labels: Ints, metadata: Mapping[str, str]
) -> EvidenceRecord:
    """Write a new evidence file, one part at a time, and flush it to disk; returns its record.

    It holds ``<column>.indices`` and ``<column>.images`` (float32 in [0, 1]), by index, and ``labels``.
    The header of the file contains ``metadata``, the format and the version of robust-eval as JSON under
    ``robust_eval``. The file has the bytes that ``safetensors.numpy.save`` would write.
    """
    parts = {name: [part for part in found if len(part.indices)] for name, found in columns.items()}
    found = {name: concatenate([part.indices for part in column]) for name, column in parts.items()}
    whole: dict[str, Ints] = {f"{name}.indices": np.sort(indices) for name, indices in found.items()}
    whole["labels"] = labels
    images = {f"{name}.images": (len(found[name]), *_image_shape(column)) for name, column in parts.items()}
    # One header entry only: several are written in random order, which would change the digest of equal runs.
    described = json.dumps({**metadata, "format": FORMAT, "written_by": written_by()}, sort_keys=True)
    header: dict[str, Any] = {"__metadata__": {"robust_eval": described}}
    position = 0
    for name, dtype, shape in (
        *((name, "I64", array.shape) for name, array in sorted(whole.items())),
        *((name, "F32", shape) for name, shape in sorted(images.items())),
    ):
        end = position + math.prod(shape) * strict_safetensors.ITEM_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (position, end)}
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    with open_new(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, array in sorted(whole.items()):
            file.write(array.astype("<i8").tobytes())
        for name, column in parts.items():
            offset = start + header[f"{name}.images"]["data_offsets"][0]
            _write_images(file, offset, column, found[name], images[f"{name}.images"][1:])
        file.flush()
        os.fsync(file.fileno())
    sha256 = regular_file.sha256(path, "evidence", strict_safetensors.LARGEST)
    return EvidenceRecord(file=EVIDENCE_FILE, sha256=sha256, images=sum(map(len, found.values())))


def _image_shape(parts: Sequence[BrokenPart]) -> tuple[int, ...]:
    return parts[0].read().shape[1:] if parts else ()


def _write_images(
    file: BinaryIO, start: int, parts: Sequence[BrokenPart], indices: Ints, shape: tuple[int, ...]
) -> None:
    """Write the images of all parts where the order of their indices puts them."""
    places = np.empty(len(indices), dtype=np.int64)
    places[np.argsort(indices, kind="stable")] = np.arange(len(indices))
    size, done = math.prod(shape) * 4, 0
    for part in parts:
        images = part.read()
        if images.shape != (len(part.indices), *shape):
            raise LookupError("images of broken examples are missing")
        for image, place in zip(images, places[done : done + len(images)].tolist(), strict=True):
            file.seek(start + place * size)
            file.write(np.ascontiguousarray(image, dtype="<f4").data)
        done += len(images)


@dataclass(frozen=True)
class Evidence:
    """The header of an evidence file; images are read per column with :meth:`broken`."""

    path: Path
    sha256: str
    metadata: Mapping[str, str]
    """``checkpoint``, ``data``, ``threat`` and ``request`` of the run; format and version of robust-eval."""
    labels: Ints
    columns: tuple[str, ...]

    def broken(self, column: str) -> tuple[Ints, NDArray[np.float32]]:
        """Indices (B,) and images (B, C, H, W), float32, of a column's broken examples; B may be 0.

        Many images are not read, but mapped into memory.

        Raises :class:`UserError` for tensors of other types or lengths.
        """
        if column not in self.columns:
            return np.empty(0, dtype=np.int64), np.empty((0,), dtype=np.float32)
        with strict_safetensors.opened(self.path) as file:
            indices = file.array(f"{column}.indices")
            name = f"{column}.images"
            many = file.tensors[name].size > HELD_BYTES
            images = file.mapped(name, self.path) if many else file.array(name)
        fits = indices.dtype == np.int64 and images.dtype == np.float32 and indices.shape == images.shape[:1]
        if not fits or (len(indices) and images.ndim != 4):
            raise UserError(
                f"{self.path} is damaged: {column} has {indices.dtype} indices of shape {indices.shape} and "
                f"{images.dtype} images of shape {images.shape}."
            )
        return indices, images


def read_evidence(path: Path) -> Evidence:
    """Read the header of an evidence file.

    Raises:
        UserError: for any other file, and for evidence in a format of a newer version.
    """
    with strict_safetensors.opened(path) as file:
        names = set(file.tensors)
        if "robust_eval" not in file.metadata or "labels" not in names:
            raise _not_evidence(path)
        metadata = strict_json.loads(file.metadata["robust_eval"], f"The description in {path}")
        labels = file.array("labels")
    columns = sorted(name.removesuffix(".images") for name in names if name.endswith(".images"))
    expected = {"labels", *(f"{name}.{kind}" for name in columns for kind in ("indices", "images"))}
    plain = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if names != expected or not plain or labels.dtype != np.int64 or labels.ndim != 1:
        raise _not_evidence(path)
    written = metadata.get("format", "1")
    if written not in READ_FORMATS:
        raise UserError(
            f"{path} has the evidence format {written[:20]}, which this version does not read (written by "
            f"{metadata.get('written_by', 'unknown')[:40]}). Upgrade robust-eval."
        )
    sha256 = regular_file.sha256(path, "evidence", strict_safetensors.LARGEST)
    return Evidence(path, sha256, metadata, labels, tuple(columns))


def _not_evidence(path: Path) -> UserError:
    return UserError(f"{path} is a safetensors file, but not evidence of a run.")
