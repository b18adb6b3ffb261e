"""Datasets of torchvision by the name of their class: ``torchvision:FashionMNIST``, ``torchvision:STL10``.

``?resize=256&crop=224&interpolation=bicubic`` resizes and crops, which images of several sizes need; the name
then contains it. torchvision checks the MD5 sums of what it downloads.
"""

from __future__ import annotations

import inspect
import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robust_eval.core.download import find_or_download
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.pixels import StoredPixels
from robust_eval.data import ImageSet, Split, _resizing

ARGUMENT = "NAME"
SPLITS = ("train", "test", "val")
_NAMES = {"train": ("train",), "test": ("test", "val", "valid"), "val": ("val", "valid", "validation")}
"""How the datasets call a split, the first one that a dataset has."""


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load from ``root``, or let torchvision download to it."""
    name, _, query = argument.partition("?")
    source = f"torchvision:{name}"
    resizing = _resizing.parse(query, source) if query else None
    kind = _known(name)
    dataset, found = _open(kind, source, root, split)
    images = TorchvisionImages.of(dataset, source, resizing)
    y_N = _labels(dataset, source)
    names = _class_names(dataset, y_N)
    pixels = StoredPixels(images.read, np.arange(len(y_N)), (images.height, images.width, images.channels))
    return ImageSet(source + (f"?{resizing}" if resizing else ""), found, pixels, y_N, names)


def _known(name: str) -> Any:
    from torchvision import datasets

    known = {one: getattr(datasets, one) for one in datasets.__all__ if "root" in _parameters(datasets, one)}
    if name not in known:
        raise unknown("dataset of torchvision", name, tuple(known))
    return known[name]


def _parameters(datasets: Any, name: str) -> tuple[str, ...]:
    return tuple(inspect.signature(getattr(datasets, name).__init__).parameters)


def _open(kind: Any, source: str, root: Path, split: Split) -> tuple[Any, str]:
    """The dataset and the split that it has."""
    takes = inspect.signature(kind.__init__).parameters
    if "train" in takes:
        if split == "val":
            raise UserError(f"{source} has no split val. Use test or train.")
        choices: list[tuple[str, dict[str, Any]]] = [(split, {"train": split == "train"})]
    elif "split" in takes:
        choices = [("train" if split == "train" else one, {"split": one}) for one in _NAMES[split]]
    else:
        choices = [("all", {})]
    wrong: ValueError | None = None
    for found, options in choices:

        def build(folder: Path, download: bool, options: dict[str, Any] = options) -> Any:
            more = {"download": download} if "download" in takes else {}
            with redirect_stdout(io.StringIO()):
                return kind(root=str(folder), **options, **more)

        try:
            return find_or_download(source, build, (root, root / "torchvision"), "its files", source), found
        except ValueError as error:  # for a split that it does not have
            wrong = wrong or error
        except TypeError as error:
            raise UserError(f"{source} cannot be opened ({error}). Save its images as npz:FILE.") from None
    raise UserError(f"{source} has no split {split} ({str(wrong).splitlines()[0]}).")


@dataclass(frozen=True)
class TorchvisionImages:
    """The images of a dataset of torchvision, all of one size and mode."""

    dataset: Any
    source: str
    resizing: _resizing.Resizing | None
    height: int
    width: int
    channels: int

    @staticmethod
    def of(dataset: Any, source: str, resizing: _resizing.Resizing | None) -> TorchvisionImages:
        """Size and mode are those of the first image."""
        sample = dataset[0] if len(dataset) else None
        pair = isinstance(sample, tuple) and len(sample) == 2
        if sample is None or not pair or not isinstance(sample[0], Image.Image):
            raise UserError(f"{source} is not a dataset of images with one label each. Save it as npz:FILE.")
        image = sample[0] if resizing is None else resizing.apply(sample[0])
        channels = 1 if image.mode in ("1", "L") else 3
        return TorchvisionImages(dataset, source, resizing, image.height, image.width, channels)

    def read(self, number: int) -> NDArray[np.uint8]:
        """One image (H, W, C)."""
        image = self.dataset[number][0].convert("L" if self.channels == 1 else "RGB")
        image = image if self.resizing is None else self.resizing.apply(image)
        if image.size != (self.width, self.height):
            raise UserError(
                f"Images of {self.source} differ in size: {self.width}x{self.height} and "
                f"{image.width}x{image.height}. Resize and crop them: {self.source}?resize=256&crop=224."
            )
        return np.asarray(image).reshape(self.height, self.width, self.channels)


def _labels(dataset: Any, source: str) -> NDArray[np.int64]:
    found = next(
        (getattr(dataset, one) for one in ("targets", "labels", "_labels") if hasattr(dataset, one)), None
    )
    values = [dataset[number][1] for number in range(len(dataset))] if found is None else found
    try:
        y_N = np.asarray(values)
        whole = np.issubdtype(y_N.dtype, np.integer) and y_N.shape == (len(dataset),)
    except ValueError:
        whole = False
    if not whole or y_N.min() < 0:
        raise UserError(f"{source} has no class of each image as its label. Save it as npz:FILE.")
    return y_N.astype(np.int64)


def _class_names(dataset: Any, y_N: NDArray[np.int64]) -> tuple[str, ...]:
    names = tuple(map(str, getattr(dataset, "classes", ())))
    return names if len(names) > y_N.max() else tuple(map(str, range(int(y_N.max()) + 1)))
