"""The evidence file: for every broken example, exactly the image that was judged."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from robust_eval.core.files import atomic, writing
from robust_eval.core.records import Ints
from robust_eval.schema import EVIDENCE_FILE, EvidenceRecord
from robust_eval.summary import Stage, concatenate


def column_evidence(stages: Sequence[Stage]) -> tuple[Ints, NDArray[np.uint16]]:
    """Indices and 16-bit images of a column's broken examples, sorted by index."""
    indices = concatenate([stage.broken() for stage in stages])
    images = [result.evidence for stage in stages for result in stage.results if len(result.evidence)]
    if not images:
        return indices, np.empty((0,), dtype=np.uint16)
    order = np.argsort(indices, kind="stable")
    return indices[order], np.concatenate(images)[order]


def write(
    folder: Path,
    columns: Mapping[str, Sequence[Stage]],
    labels: Ints,
    metadata: Mapping[str, str],
) -> EvidenceRecord:
    """``<column>.indices``, ``<column>.images`` (uint16, divide by 65535) and ``labels``.

    The file's metadata holds ``metadata`` as JSON under ``robust_eval``.
    """
    tensors: dict[str, NDArray[np.generic]] = {"labels": labels}
    total = 0
    for name, stages in columns.items():
        indices, images = column_evidence(stages)
        tensors[f"{name}.indices"], tensors[f"{name}.images"] = indices, images
        total += len(indices)
    # One entry: several would be written in random order, and equal runs would differ in their digest.
    payload = save(tensors, metadata={"robust_eval": json.dumps(dict(metadata), sort_keys=True)})
    path = folder / EVIDENCE_FILE
    with writing(folder), atomic(path) as file:
        file.write(payload)
    return EvidenceRecord(file=EVIDENCE_FILE, sha256=hashlib.sha256(payload).hexdigest(), images=total)
