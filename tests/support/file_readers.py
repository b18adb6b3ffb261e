"""Every reader of untrusted files, with the files that it reads.

A :class:`FileReader` makes small valid files from Hypothesis' draws and compares what is read with what was
written. The tests in ``tests/untrusted`` change and cut these files.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from hypothesis import strategies as st
from PIL import Image

from robust_eval.core import (
    strict_arrays,
    strict_image,
    strict_json,
    strict_safetensors,
    strict_toml,
)
from robust_eval.core.types import UnitResult, Verdicts
from robust_eval.data import mnist, npz
from robust_eval.evaluation import store
from robust_eval.leaderboard.page_extras import read_curve
from robust_eval.models.loading import checkpoint, file_reader
from robust_eval.results.evidence import Evidence, read_evidence


@dataclass(frozen=True)
class FileReader:
    """One reader, and how its files are made."""

    name: str
    """With the suffix of its files."""
    values: st.SearchStrategy[Any]
    write: Callable[[Any], bytes]
    read: Callable[[Path], Any]
    same: Callable[[Any, Any], bool] = lambda written, found: bool(written == found)


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)
TYPES = st.sampled_from(["bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64"])


def array(shape: tuple[int, ...], kind: str) -> Any:
    """Values 0 and 1, of which every type has some."""
    return (np.arange(int(np.prod(shape))) % 2).reshape(shape).astype(kind)


ARRAYS = st.dictionaries(st.sampled_from(["x", "y", "z"]), st.builds(array, SHAPES, TYPES), max_size=3)


def equal_arrays(written: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return written.keys() == found.keys() and all(
        (written[key].dtype, written[key].shape) == (found[key].dtype, found[key].shape)
        and np.array_equal(written[key], found[key])
        for key in written
    )


def npz_bytes(arrays: Mapping[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def read_npz(path: Path) -> dict[str, Any]:
    with strict_arrays.opened_npz(path, 2**24) as archive:
        return {name: archive.read(name) for name in archive.names}


def npy_bytes(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def read_safetensors(path: Path) -> dict[str, Any]:
    with strict_safetensors.opened(path) as file:
        return {key: file.array(key) for key in file.tensors}


def tensors(arrays: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def equal_tensors(written: Mapping[str, Any], found: Any) -> bool:
    return equal_arrays(written, {key: value.numpy() for key, value in found.items()})


def torch_bytes(new: bool) -> Callable[[Any], bytes]:
    def write(arrays: Mapping[str, Any]) -> bytes:
        file = io.BytesIO()
        torch.save(tensors(arrays), file, _use_new_zipfile_serialization=new)
        return file.getvalue()

    return write


def objects_bytes(new: bool) -> Callable[[Any], bytes]:
    """Tensors beside objects of other programs, which the weights-only reader refuses."""

    def write(arrays: Mapping[str, Any]) -> bytes:
        file = io.BytesIO()
        value = {"net": tensors(arrays), "arrays": arrays, "beside": [Path("x"), Decimal(1)]}
        torch.save(value, file, _use_new_zipfile_serialization=new)
        return file.getvalue()

    return write


def equal_objects(written: Mapping[str, Any], found: Any) -> bool:
    return equal_tensors(written, found["net"]) and equal_tensors(written, found["arrays"])


def image_bytes(kind: str) -> Callable[[Any], bytes]:
    def write(pixels: Any) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()

    return write


def image(kind: str, suffix: str, *, exact: bool = True) -> FileReader:
    sizes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(3))
    pixels = st.builds(
        lambda shape, seed: np.random.default_rng(seed).integers(0, 256, shape, np.uint8),
        sizes,
        st.integers(0, 9),
    )
    return FileReader(
        f"image.{suffix}",
        pixels,
        image_bytes(kind),
        lambda path: strict_image.read(path, path.name),
        lambda written, found: found.shape == written.shape and (not exact or np.array_equal(written, found)),
    )


def toml_text(table: Mapping[str, Any]) -> bytes:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()).encode()


def csv_bytes(rows: Any) -> bytes:
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["epoch", "loss"])
    writer.writerows(rows)
    return file.getvalue().encode()


def idx_bytes(value: Any) -> bytes:
    head = bytes((0, 0, 8, value.ndim)) + b"".join(size.to_bytes(4, "big") for size in value.shape)
    return gzip.compress(head + value.tobytes())


def unit(n: int) -> UnitResult:
    yes, count = np.ones(n, dtype=bool), np.arange(n)
    return UnitResult(
        Verdicts(count, count, count, count / 7, yes, yes, yes, yes),
        np.zeros((0, 1, 2, 2), np.float32),
        1,
        2,
        0.5,
    )


def dataset_bytes(n: int) -> bytes:
    return npz_bytes({"x": np.zeros((n, 2, 2, 1), np.uint8), "y": np.arange(n)})


def evidence_bytes(n: int) -> bytes:
    arrays = {
        "labels": np.arange(n),
        "a.indices": np.arange(1),
        "a.images": np.zeros((1, 1, 2, 2), np.float32),
    }
    return safetensors.numpy.save(arrays, {"robust_eval": json.dumps({"request": "r", "format": "2"})})


def read_all_evidence(path: Path) -> Evidence:
    found = read_evidence(path)
    for column in found.columns:
        found.broken(column)
    return found


def checkpoint_bytes(width: int) -> bytes:
    """A foreign checkpoint of a small network, recognised by its names and shapes."""
    from robust_eval.models import architectures

    network = architectures.build(
        "digits-cnn", classes=3, channels=1, image_size=(8, 8), width=width, hidden=4
    )
    file = io.BytesIO()
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, file)
    return file.getvalue()


COUNTS = st.integers(1, 4)
READERS = (
    FileReader("values.json", PLAIN, lambda value: json.dumps(value).encode(), strict_json.read),
    FileReader(
        "table.toml",
        st.dictionaries(
            st.sampled_from(["a", "b-c", "d_1"]),
            st.booleans() | st.integers(-9, 9) | st.lists(st.integers(0, 9)),
        ),
        toml_text,
        strict_toml.read,
    ),
    FileReader(
        "curve.csv",
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=4),
        csv_bytes,
        read_curve,
        lambda rows, found: found == {"epoch": [row[0] for row in rows], "loss": [row[1] for row in rows]},
    ),
    FileReader("arrays.npz", ARRAYS, npz_bytes, read_npz, equal_arrays),
    FileReader(
        "array.npy",
        st.builds(array, SHAPES, TYPES),
        npy_bytes,
        lambda path: strict_arrays.read_npy(path, 2**24),
        lambda written, found: equal_arrays({"": written}, {"": found}),
    ),
    FileReader("arrays.safetensors", ARRAYS, safetensors.numpy.save, read_safetensors, equal_arrays),
    FileReader(
        "weights.safetensors",
        ARRAYS,
        safetensors.numpy.save,
        lambda path: file_reader.read(path).value,
        equal_tensors,
    ),
    FileReader(
        "weights.pt", ARRAYS, torch_bytes(True), lambda path: file_reader.read(path).value, equal_tensors
    ),
    FileReader(
        "legacy.pt", ARRAYS, torch_bytes(False), lambda path: file_reader.read(path).value, equal_tensors
    ),
    FileReader(
        "objects.pt", ARRAYS, objects_bytes(True), lambda path: file_reader.read(path).value, equal_objects
    ),
    FileReader(
        "objects-legacy.pt",
        ARRAYS,
        objects_bytes(False),
        lambda path: file_reader.read(path).value,
        equal_objects,
    ),
    FileReader(
        "arrays.pkl",
        ARRAYS,
        lambda arrays: pickle.dumps(arrays, 5),
        lambda path: file_reader.read(path).value,
        equal_tensors,
    ),
    FileReader(
        "model.pt",
        COUNTS,
        checkpoint_bytes,
        lambda path: checkpoint.load(str(path), images=None, normalisation="none"),
        lambda width, found: found.network.state_dict()["convolutions.0.weight"].shape[0] == width,
    ),
    image("PNG", "png"),
    image("BMP", "bmp"),
    image("TIFF", "tiff"),
    image("PPM", "ppm"),
    image("JPEG", "jpg", exact=False),
    image("GIF", "gif", exact=False),
    image("WEBP", "webp", exact=False),
    FileReader(
        "digits.gz",
        st.builds(lambda n: np.arange(n, dtype=np.uint8), st.integers(0, 9)),
        idx_bytes,
        lambda path: mnist.read_idx(path, 1),
        np.array_equal,
    ),
    FileReader(
        "data.npz",
        COUNTS,
        dataset_bytes,
        lambda path: npz.load(str(path), path, "test"),
        lambda n, found: found.n == n,
    ),
    FileReader(
        "evidence.safetensors",
        COUNTS,
        evidence_bytes,
        read_all_evidence,
        lambda n, found: len(found.labels) == n,
    ),
    FileReader(
        "unit.npz",
        COUNTS,
        lambda n: store.pack_unit("k", unit(n)),
        lambda path: store.unpack_unit("k", path),
        lambda n, found: found is not None and len(found.verdicts.indices) == n,
    ),
)
