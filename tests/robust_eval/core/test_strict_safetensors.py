from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from support.untrusted_files import short

from robust_eval.core import strict_safetensors
from robust_eval.core.errors import UserError

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([True, False]),
    "c": np.zeros((0, 4), np.int64),
    "d": np.array(0.5),
}


def file(header: Any, content: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + content


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def read(path: Path) -> dict[str, Any]:
    with strict_safetensors.opened(path) as found:
        return {key: found.array(key) for key in found.tensors}


def test_a_file_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors.numpy.save(ARRAYS, metadata={"key": "text"}))
    found = read(path)
    assert found.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape)
        assert np.array_equal(found[key], array)
        assert found[key].flags.writeable
    with strict_safetensors.opened(path) as opened:
        assert opened.metadata == {"key": "text"}


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x is not a safetensors file, or a damaged one (its header is truncated or too long). Copy it"),
        (b"<html>", "its header is truncated or too long"),
        (file({"a": tensor()}, length=2**63), "its header is truncated or too long"),
        (file({"a": tensor()}, length=2**31), "its header is truncated or too long"),
        (file({"a": tensor()}, length=60), "The header of x is not readable as JSON"),
        (file(b'{"a":' * 50_000), "The header of x is nested more than 64 levels deep"),
        (file(b"\xff\xfe"), "its header is not text"),
        (file([]), "its header is not an object"),
        (file(b'{"a": 1, "a": 2}'), "The header of x has the key 'a' twice in one object."),
        (file({"a": 1}), "'a' is not described as a tensor"),
        (file({"a": {**tensor(), "more": 1}}), "'a' is not described as a tensor"),
        (file({"a": tensor(), "__metadata__": {"a": 1}}), "its metadata are not text"),
        (file({"a": tensor("F33")}), "'a' has an unknown type"),
        (file({"a": tensor([])}), "'a' has an unknown type"),
        (file({"a": tensor(shape=(-2,))}), "'a' has an unusable shape"),
        (file({"a": tensor(shape=(True, 2))}), "'a' has an unusable shape"),
        (file({"a": tensor(shape=(2.0,))}), "'a' has an unusable shape"),
        (file({"a": tensor(shape=[1] * 17)}), "'a' has an unusable shape"),
        (file({"a": tensor(shape=[2**62, 2**62, 0], offsets=(0, 0))}), "'a' has an unusable shape"),
        (file({"a": tensor(offsets=(0,))}), "'a' has an unusable position"),
        (file({"a": tensor(offsets=(8, 0))}), "'a' has -8 bytes for the shape [2] of F32"),
        (file({"a": tensor(shape=(2**40, 2**40))}), "'a' has 8 bytes for the shape"),
        (
            file({"a": tensor(shape=(25 * 10**9,), offsets=(0, 10**11))}),
            "8 bytes of 100000000000: it is trunc",
        ),
        (file({"a": tensor(), "b": tensor()}), "its tensors overlap, or leave a gap"),
        (file({"a": tensor(offsets=(8, 16))}, bytes(16)), "its tensors overlap, or leave a gap"),
        (
            file({"a": tensor()}, bytes(7)),
            "it holds 7 bytes of 8: it is truncated, or something was appended",
        ),
        (file({"a": tensor()}, bytes(9)), "it holds 9 bytes of 8"),
        (file({"a": tensor("BOOL", (8,))}, b"\2" * 8), "'a' holds bytes that are neither true nor false"),
        (file({"a": tensor("BF16", (4,))}), "'a' has the type BF16. Save it as F32."),
    ],
    ids=short,
)
def test_other_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        read(Path("x"))
