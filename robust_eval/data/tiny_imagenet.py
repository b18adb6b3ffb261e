"""Tiny ImageNet: 200 classes, 64x64; 100,000 training and 10,000 validation images, which are the test split.

Reads the folder ``tiny-imagenet-200`` of the archive from cs231n.stanford.edu, which is downloaded if it is
missing, or one whose validation images have been sorted into folders of their classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robust_eval.core import regular_file
from robust_eval.core.download import find_or_download
from robust_eval.core.errors import UserError
from robust_eval.core.pixels import Pixels
from robust_eval.data import ImageSet, Split, folder
from robust_eval.data._image_files import ImageFiles

ARGUMENT = None
SPLITS = ("test", "val", "train")
URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FOLDER = "tiny-imagenet-200"
SIZE = (64, 64)


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load from ``root/tiny-imagenet-200`` or ``root/tiny-imagenet``; the splits test and val are the same.

    Classes are numbered in the order of their WordNet ids (file ``wnids.txt``, sorted).
    """

    def find(place: Path, download: bool) -> Path:
        if download:
            from torchvision.datasets.utils import download_and_extract_archive

            download_and_extract_archive(URL, place, md5=MD5)
        found = [one for one in (place / FOLDER, place) if (one / "wnids.txt").is_file()]
        if not found:
            raise RuntimeError("wnids.txt is missing")
        return found[0]

    base = find_or_download(
        "tiny-imagenet", find, (root, root / "tiny-imagenet"), f"the folder {FOLDER}", URL
    )
    names = sorted(regular_file.read_text(base / "wnids.txt", "lists of classes", 2**20).split())
    files = _training(base, names) if split == "train" else _validation(base)
    numbers = {name: number for number, name in enumerate(names)}
    unknown = next((name for _, name in files if name not in numbers), None)
    if unknown is not None or not files:
        raise UserError(
            f"{base} has {f'images of {unknown}' if unknown else 'no images'}, not those of its wnids.txt. "
            "Unpack the archive again."
        )
    y_N = np.array([numbers[name] for _, name in files], dtype=np.int64)
    pixels: Pixels = ImageFiles(tuple(path for path, _ in files), base, SIZE).stored(3)
    return ImageSet("tiny-imagenet", "train" if split == "train" else "test", pixels, y_N, tuple(names))


def _training(base: Path, names: list[str]) -> list[tuple[Path, str]]:
    return [(path, name) for name in names for path in folder.image_paths(base / "train" / name, base)]


def _validation(base: Path) -> list[tuple[Path, str]]:
    """From ``val/images`` with ``val_annotations.txt``, else from folders of classes."""
    top, table = base / "val", base / "val" / "val_annotations.txt"
    if table.is_file() and (top / "images").is_dir():
        rows = [
            line.split("\t") for line in regular_file.read_text(table, "lists of images", 2**24).splitlines()
        ]
        if not all(len(row) > 1 and Path(row[0]).name == row[0] for row in rows):
            raise UserError(f"{table} is not the list of the validation images. Unpack the archive again.")
        return [(top / "images" / row[0], row[1]) for row in rows]
    return [
        (path, name)
        for name in sorted(folder.class_folders(top, base))
        for path in folder.image_paths(top / name, base)
    ]
