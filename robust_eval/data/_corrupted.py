"""Shared parts of cifar10-c, cifar100-c and imagenet-c: which corruptions and severities are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import regular_file, strict_arrays
from robust_eval.core.corruptions import CORRUPTIONS, MORE, SEVERITIES
from robust_eval.core.download import find_or_download
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.pixels import StoredPixels
from robust_eval.data import ImageSet

OPTIONS = "?corruption=fog&severity=3"
_SIDE = 32
_HEADER = 2**16


@dataclass(frozen=True)
class Choice:
    """Corruptions and severities, all of them unless they are named."""

    name: str
    """With the options."""
    corruptions: tuple[str, ...]
    severities: tuple[int, ...]

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Corruption and severity of each part of the images, in order."""
        return [(corruption, severity) for corruption in self.corruptions for severity in self.severities]


def parse(dataset: str, options: str) -> Choice:
    """The choice of ``corruption=fog&severity=3``, or of a part of it. Raises :class:`UserError`."""
    found = dict(parse_qsl(options, keep_blank_values=True))
    wrong = next((name for name in found if name not in ("corruption", "severity")), None)
    if wrong is not None or (options and not found):
        raise unknown(f"option of {dataset}", wrong or options, ("corruption", "severity"))
    corruption, severity = found.get("corruption"), found.get("severity")
    if corruption is not None and corruption not in (*CORRUPTIONS, *MORE):
        raise unknown("corruption", corruption, (*CORRUPTIONS, *MORE))
    if severity is not None and severity not in map(str, SEVERITIES):
        raise UserError(f"severity must be a whole number from 1 to 5, got '{severity}'.")
    text = "&".join(f"{name}={found[name]}" for name in ("corruption", "severity") if name in found)
    return Choice(
        f"{dataset}?{text}" if text else dataset,
        CORRUPTIONS if corruption is None else (corruption,),
        SEVERITIES if severity is None else (int(severity),),
    )


@dataclass(frozen=True)
class CifarSource:
    """One of the two sets of CIFAR: a folder with ``labels.npy`` and a file per corruption."""

    folder: str
    url: str
    md5: str
    class_names: tuple[str, ...]

    def load(self, dataset: str, options: str, root: Path) -> ImageSet:
        """The chosen images from the folder under ``root``, or downloaded from Zenodo (2.9 GB)."""
        choice = parse(dataset, options)

        def find(place: Path, download: bool) -> Path:
            if download:
                from torchvision.datasets.utils import download_and_extract_archive

                download_and_extract_archive(self.url, place, filename=f"{self.folder}.tar", md5=self.md5)
            found = [one for one in (place / self.folder, place) if (one / "labels.npy").is_file()]
            if not found:
                raise RuntimeError("labels.npy is missing")
            return found[0]

        folder = find_or_download(
            dataset, find, (root, root / dataset), f"the folder {self.folder}", self.url
        )
        labels = strict_arrays.read_npy(folder / "labels.npy", 2**24)
        if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1 or len(labels) % len(SEVERITIES):
            raise UserError(f"{folder / 'labels.npy'} does not hold the labels of five severities.")
        n = len(labels) // len(SEVERITIES)
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= len(self.class_names):
            raise UserError(f"{folder / 'labels.npy'} has labels from {labels.min()} to {labels.max()}.")
        files = tuple(
            CorruptedFile.opened(folder / f"{name}.npy", len(labels)) for name in choice.corruptions
        )
        reader = _CifarReader(files, tuple(severity - 1 for severity in choice.severities), n)
        y_N = np.concatenate(
            [labels[(severity - 1) * n : severity * n] for _, severity in choice.parts]
        ).astype(np.int64)
        pixels = StoredPixels(reader.read, np.arange(len(y_N)), (_SIDE, _SIDE, 3))
        return ImageSet(choice.name, "test", pixels, y_N, self.class_names)


@dataclass(frozen=True)
class CorruptedFile:
    """A NumPy file of images 32x32x3, of which single ones are read."""

    path: Path
    start: int
    """Position of the first image."""

    @staticmethod
    def opened(path: Path, images: int) -> CorruptedFile:
        """Check that a file holds so many images. Raises :class:`UserError`."""
        expected = images * _SIDE * _SIDE * 3
        with regular_file.opened(path, "images", expected + _HEADER) as file:
            shape, dtype = strict_arrays.npy_header(file, str(path))
            start = file.tell()
            size = file.seek(0, 2) - start
        if shape != (images, _SIDE, _SIDE, 3) or dtype != np.uint8 or size != expected:
            raise UserError(
                f"{path} holds {dtype} of shape {shape}; expected uint8 {(images, _SIDE, _SIDE, 3)}. Unpack "
                "the archive again."
            )
        return CorruptedFile(path, start)

    def image(self, row: int) -> NDArray[np.uint8]:
        size = _SIDE * _SIDE * 3
        with self.path.open("rb") as file:
            file.seek(self.start + row * size)
            content = file.read(size)
        if len(content) < size:
            raise UserError(f"{self.path} became shorter while it was read.")
        return np.frombuffer(content, np.uint8).reshape(_SIDE, _SIDE, 3)


@dataclass(frozen=True)
class _CifarReader:
    """Images by number: by corruption, then by severity, then in the order of the files."""

    files: tuple[CorruptedFile, ...]
    severities: tuple[int, ...]
    """Counted from 0."""
    n: int
    """Images of one severity."""

    def read(self, number: int) -> NDArray[np.uint8]:
        part, image = divmod(number, self.n)
        file, severity = divmod(part, len(self.severities))
        return self.files[file].image(self.severities[severity] * self.n + image)
