from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from robust_eval.core.errors import UserError
from robust_eval.results.evidence import pack_evidence, read_evidence

DESCRIPTION = {"checkpoint": "c", "data": "d", "threat": "Linf 0.1", "request": "r"}


def stored(path: Path, metadata: Any = None, **changes: Any) -> Path:
    tensors = {
        "labels": np.arange(3),
        "fgsm.indices": np.array([1]),
        "fgsm.images": np.zeros((1, 1, 2, 2), np.float32),
    } | changes
    text = json.dumps(DESCRIPTION if metadata is None else metadata)
    path.write_bytes(safetensors.numpy.save(tensors, metadata={"robust_eval": text}))
    return path


def test_new_evidence_names_its_format_and_version(tmp_path: Path) -> None:
    content, record = pack_evidence({}, np.arange(3), DESCRIPTION)
    (tmp_path / record.file).write_bytes(content)
    found = read_evidence(tmp_path / record.file)
    assert found.sha256 == record.sha256
    assert found.metadata == {**DESCRIPTION, "format": "2", "written_by": found.metadata["written_by"]}
    assert found.metadata["written_by"].startswith("robust-eval ")


def test_evidence_without_a_format_is_read(tmp_path: Path) -> None:
    found = read_evidence(stored(tmp_path / "e"))
    assert found.columns == ("fgsm",)
    assert found.broken("fgsm")[0].tolist() == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metadata": {"format": "3", "written_by": "robust-eval 9"}},
            "has the evidence format 3, which this",
        ),
        ({"metadata": {"format": "3"}}, r"\(written by unknown\)\. Upgrade robust-eval\."),
        ({"metadata": {"format": 2}}, "but not evidence of a run"),
        ({"metadata": []}, "but not evidence of a run"),
        ({"labels": np.zeros((3, 1), np.int64)}, "but not evidence of a run"),
        ({"labels": np.zeros(3, np.float32)}, "but not evidence of a run"),
        (
            {"fgsm.images": np.zeros((1, 1, 2, 2), np.uint16)},
            "fgsm has int64 indices of shape .* uint16 images",
        ),
        ({"fgsm.images": np.zeros((1, 4), np.float32)}, "is damaged: fgsm has int64 indices"),
        ({"fgsm.indices": np.zeros((1, 1), np.int64)}, "is damaged: fgsm has int64 indices"),
        ({"fgsm.indices": np.zeros(1, np.int32)}, "is damaged: fgsm has int32 indices"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_evidence(stored(tmp_path / "e", **changes)).broken("fgsm")
