"""Shared loader of cifar10 and cifar100: the pickles of the "python version", read without running code."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import regular_file
from robust_eval.core.download import find_or_download
from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet, Split

# The largest, the training images of CIFAR-100, has 155 MB.
_LARGEST = 2**28


def load_cifar(name: str, dataset: Any, root: Path, split: Split) -> ImageSet:
    """Load a split of ``dataset`` (a class of torchvision) from ``root`` or ``root/<name>``."""

    def build(folder: Path, download: bool) -> ImageSet:
        if download:
            from torchvision.datasets.utils import download_and_extract_archive

            download_and_extract_archive(dataset.url, folder, filename=dataset.filename, md5=dataset.tgz_md5)
        return _read(name, dataset, folder / dataset.base_folder, split)

    needs = f"the folder {dataset.base_folder}"
    return find_or_download(name, build, (root, root / name), needs, dataset.url)


def _read(name: str, dataset: Any, folder: Path, split: Split) -> ImageSet:
    files = dataset.train_list if split == "train" else dataset.test_list
    batches = [_unpickle(folder / file, md5) for file, md5 in files]
    meta = _unpickle(folder / dataset.meta["filename"], dataset.meta["md5"])
    rows = np.concatenate([_array(batch["data"]) for batch in batches])
    labels = [label for batch in batches for label in batch.get("labels", batch.get("fine_labels", ()))]
    x_NHWC = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return ImageSet(name, split, x_NHWC, np.array(labels, dtype=np.int64), tuple(meta[dataset.meta["key"]]))


def _unpickle(path: Path, md5: str) -> Mapping[str, Any]:
    """The dict in a file of the archive.

    Raises:
        RuntimeError: if the file is missing or not that of the archive.
    """
    if not path.is_file():
        raise RuntimeError(f"{path} is missing")
    content = regular_file.read_bytes(path, "CIFAR files", _LARGEST)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise RuntimeError(f"{path} is damaged")
    try:
        value: Mapping[str, Any] = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is not a file of CIFAR: {error}.") from None
    return value


class _StoredArray:
    """Takes the place of an array of NumPy and keeps the state it is made from."""

    state: tuple[Any, ...]

    def __init__(self, *_: object) -> None:
        """The arguments of ``numpy._reconstruct``, which say nothing about the content."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _StoredType:
    """Takes the place of ``numpy.dtype``."""

    def __init__(self, kind: str, *_: object) -> None:
        self.kind = kind

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, which do not matter for bytes."""


def _encoded(text: str, _encoding: str) -> bytes:
    """How Python 3 pickles bytes by protocol 2."""
    return text.encode("latin-1")


class _PlainUnpickler(pickle.Unpickler):
    """Reads plain values and arrays; refuses everything else that a pickle may import."""

    def find_class(self, module: str, name: str) -> Any:
        found = {
            ("numpy.core.multiarray", "_reconstruct"): _StoredArray,
            ("numpy._core.multiarray", "_reconstruct"): _StoredArray,
            ("numpy", "ndarray"): _StoredArray,
            ("numpy", "dtype"): _StoredType,
            ("_codecs", "encode"): _encoded,
        }.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"it imports {module}.{name}, which could run code")
        return found


def _array(stored: _StoredArray) -> NDArray[np.uint8]:
    """The pixels (N, 3072) of a batch."""
    _, shape, dtype, fortran, content = stored.state
    content = content.encode("latin-1") if isinstance(content, str) else content
    if dtype.kind != "u1" or fortran or len(shape) != 2:
        raise UserError(f"A batch of CIFAR has pixels of the type {dtype.kind} and the shape {shape}.")
    return np.frombuffer(content, np.uint8).reshape(shape)
