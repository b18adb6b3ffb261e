"""The evidence file: for every broken example, the adversarial image that was judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from robust_eval.core import regular_file, strict_json, strict_safetensors
from robust_eval.core.errors import UserError
from robust_eval.core.types import Ints
from robust_eval.core.versions import written_by
from robust_eval.results import EVIDENCE_FILE, EvidenceRecord
from robust_eval.results.summary import Stage, concatenate

FORMAT = "2"
"""Format 1 names neither its format nor the version of robust-eval; otherwise it is the same."""
READ_FORMATS = ("1", FORMAT)


def column_evidence(stages: Sequence[Stage]) -> tuple[Ints, NDArray[np.float32]]:
    """Indices and images of a column's broken examples, sorted by index."""
    indices = concatenate([stage.broken() for stage in stages])
    images = [result.evidence for stage in stages for result in stage.results if len(result.evidence)]
    if not images:
        return indices, np.empty((0,), dtype=np.float32)
    order = np.argsort(indices, kind="stable")
    return indices[order], np.concatenate(images)[order]


def pack_evidence(
    columns: Mapping[str, Sequence[Stage]],
    labels: Ints,
    metadata: Mapping[str, str],
) -> tuple[bytes, EvidenceRecord]:
    """The content of an evidence file, and its record.

    It holds ``<column>.indices``, ``<column>.images`` (float32 in [0, 1]) and ``labels``. The header of
    the file contains ``metadata``, the format and the version of robust-eval as JSON under ``robust_eval``.
    """
    tensors: dict[str, NDArray[np.generic]] = {"labels": labels}
    total = 0
    for name, stages in columns.items():
        indices, images = column_evidence(stages)
        tensors[f"{name}.indices"], tensors[f"{name}.images"] = indices, images
        total += len(indices)
    # One header entry only: several are written in random order, which would change the digest of equal runs.
    described = {**metadata, "format": FORMAT, "written_by": written_by()}
    payload = save(tensors, metadata={"robust_eval": json.dumps(described, sort_keys=True)})
    sha256 = hashlib.sha256(payload).hexdigest()
    return payload, EvidenceRecord(file=EVIDENCE_FILE, sha256=sha256, images=total)


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

        Raises :class:`UserError` for tensors of other types or lengths.
        """
        if column not in self.columns:
            return np.empty(0, dtype=np.int64), np.empty((0,), dtype=np.float32)
        with strict_safetensors.opened(self.path) as file:
            indices, images = (file.array(f"{column}.{kind}") for kind in ("indices", "images"))
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
