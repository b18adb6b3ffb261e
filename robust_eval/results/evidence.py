"""The evidence file: for every broken example, the adversarial image that was judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from robust_eval.core.errors import UserError
from robust_eval.core.types import Ints
from robust_eval.results import EVIDENCE_FILE, EvidenceRecord
from robust_eval.results.summary import Stage, concatenate


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

    It holds ``<column>.indices``, ``<column>.images`` (float32 in [0, 1]) and ``labels``. The
    header of the file contains ``metadata`` as JSON under ``robust_eval``.
    """
    tensors: dict[str, NDArray[np.generic]] = {"labels": labels}
    total = 0
    for name, stages in columns.items():
        indices, images = column_evidence(stages)
        tensors[f"{name}.indices"], tensors[f"{name}.images"] = indices, images
        total += len(indices)
    # One header entry only: several are written in random order, which would change the digest of equal runs.
    payload = save(tensors, metadata={"robust_eval": json.dumps(dict(metadata), sort_keys=True)})
    sha256 = hashlib.sha256(payload).hexdigest()
    return payload, EvidenceRecord(file=EVIDENCE_FILE, sha256=sha256, images=total)


@dataclass(frozen=True)
class Evidence:
    """The header of an evidence file; images are read per column with :meth:`broken`."""

    path: Path
    sha256: str
    metadata: Mapping[str, str]
    """``checkpoint``, ``data``, ``threat`` and ``request`` of the run it belongs to."""
    labels: Ints
    columns: tuple[str, ...]

    def broken(self, column: str) -> tuple[Ints, NDArray[np.float32]]:
        """Indices (B,) and images (B, C, H, W), float32, of a column's broken examples; B may be 0.

        Raises :class:`UserError` for tensors of other types or lengths.
        """
        if column not in self.columns:
            return np.empty(0, dtype=np.int64), np.empty((0,), dtype=np.float32)
        with safe_open(self.path, "numpy") as file:
            indices, images = (file.get_tensor(f"{column}.{kind}") for kind in ("indices", "images"))
        if indices.dtype != np.int64 or images.dtype != np.float32 or indices.shape != images.shape[:1]:
            raise UserError(
                f"{self.path} is damaged: {column} has {indices.dtype} indices of shape {indices.shape} and "
                f"{images.dtype} images of shape {images.shape}."
            )
        return indices, images


def read_evidence(path: Path) -> Evidence:
    """Read the header of an evidence file. Raises :class:`UserError` for any other file."""
    try:
        with path.open("rb") as raw:
            sha256 = hashlib.file_digest(raw, "sha256").hexdigest()
        with safe_open(path, "numpy") as file:
            metadata = json.loads((file.metadata() or {})["robust_eval"])
            names = set(file.keys())
            labels = file.get_tensor("labels")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a safetensors file ({error}). Is it truncated?") from None
    except (KeyError, ValueError):
        raise UserError(f"{path} is a safetensors file, but not evidence of a run.") from None
    columns = sorted(name.removesuffix(".images") for name in names if name.endswith(".images"))
    expected = {"labels", *(f"{name}.{kind}" for name in columns for kind in ("indices", "images"))}
    plain = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    if names != expected or not plain or labels.dtype != np.int64:
        raise UserError(f"{path} is a safetensors file, but not evidence of a run.")
    return Evidence(path, sha256, metadata, labels, tuple(columns))
