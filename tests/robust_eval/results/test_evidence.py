from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from robust_eval.core.errors import UserError
from robust_eval.results import evidence
from robust_eval.results.evidence import BrokenPart, read_evidence, write_evidence

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
    record = write_evidence(tmp_path / "evidence.safetensors", {}, np.arange(3), DESCRIPTION)
    found = read_evidence(tmp_path / record.file)
    assert found.sha256 == record.sha256
    assert found.metadata == {**DESCRIPTION, "format": "2", "written_by": found.metadata["written_by"]}
    assert found.metadata["written_by"].startswith("robust-eval ")


def test_evidence_is_written_in_parts_as_safetensors_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = np.random.default_rng(0).random((5, 1, 2, 3), dtype=np.float32)
    parts = [np.array([4, 9]), np.array([], dtype=np.int64), np.array([2, 7, 8])]
    columns = {
        "pgd": [
            BrokenPart(parts[0], lambda: images[:2]),
            BrokenPart(parts[1], lambda: pytest.fail("nothing to read")),
            BrokenPart(parts[2], lambda: images[2:]),
        ],
        "fgsm": [],
    }
    path = tmp_path / "evidence.safetensors"
    record = write_evidence(path, columns, np.arange(10), DESCRIPTION)
    assert record.images == 5
    found = read_evidence(path)
    tensors = {
        "labels": np.arange(10),
        "pgd.indices": np.array([2, 4, 7, 8, 9]),
        "pgd.images": images[[2, 0, 3, 4, 1]],
        "fgsm.indices": np.empty(0, np.int64),
        "fgsm.images": np.empty(0, np.float32),
    }
    text = json.dumps(found.metadata, sort_keys=True)
    assert path.read_bytes() == safetensors.numpy.save(tensors, metadata={"robust_eval": text})
    monkeypatch.setattr(evidence, "HELD_BYTES", 0)
    indices, mapped = found.broken("pgd")
    assert isinstance(mapped, np.memmap)
    assert indices.tolist() == [2, 4, 7, 8, 9]
    assert np.array_equal(mapped, tensors["pgd.images"])
    assert len(found.broken("fgsm")[1]) == 0
    wrong = {"pgd": [BrokenPart(parts[0], lambda: images[:2]), BrokenPart(parts[2], lambda: images[:2])]}
    with pytest.raises(LookupError, match="images of broken examples are missing"):
        write_evidence(path, wrong, np.arange(10), DESCRIPTION)


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
