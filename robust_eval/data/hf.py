"""Datasets of the Hugging Face Hub: ``hf:ORG/NAME``, or a folder in one of their formats, ``hf:DIR``.

Options: ``?config=NAME``, ``image=COLUMN`` and ``label=COLUMN`` if there are several, ``resize``, ``crop``
and ``interpolation``, which become part of the name. Read with the package ``datasets``, which keeps what it
has downloaded, and works offline with it. No code of a dataset is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import extras, strict_image
from robust_eval.core.download import download_timeout
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.pixels import StoredPixels
from robust_eval.data import ImageSet, Split, _resizing

ARGUMENT = "NAME"
SPLITS = ("train", "test", "val")
_NAMES = {
    "train": ("train",),
    "test": ("test", "validation", "val", "valid"),
    "val": ("validation", "val", "valid"),
}


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load with the package ``datasets``; ``root`` is not used, because it has a cache of its own."""
    path, _, query = argument.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    own: dict[str, str] = {
        name: options.pop(name) for name in ("config", "image", "label") if name in options
    }
    source = f"hf:{Path(path).name if Path(path).is_dir() else path}"
    resizing = _resizing.parse(urlencode(options), source) if options or (query and not own) else None
    parts = _open(path, source, own.get("config"))
    name = next((one for one in _NAMES[split] if one in parts), None)
    if name is None:
        raise UserError(f"{source} has no split {split} (it has {', '.join(parts)}).")
    table = parts[name]
    if not len(table):
        raise UserError(f"{source} has no images in its split {name}.")
    image, label = _columns(table, source, own)
    feature = table.features[label]
    y_N = np.asarray(table[label][:])
    if not np.issubdtype(y_N.dtype, np.integer) or y_N.ndim != 1 or y_N.min() < 0:
        raise UserError(
            f"{source} has no class of each image in the column {label} (numbers from 0). Choose another "
            "with label=COLUMN."
        )
    named = getattr(feature, "names", None)
    names = tuple(named) if named else tuple(map(str, range(int(y_N.max()) + 1)))
    package = extras.load("hub", "datasets", source)
    stored = table.select_columns([image]).cast_column(image, package.Image(decode=False))
    rows = HubImages(stored, image, source, resizing)
    first = rows.decoded(0)
    rows = HubImages(stored, image, source, resizing, first.shape)
    kept: dict[str, str] = {key: value for key, value in own.items() if key == "config"}
    shown = "&".join(filter(None, (urlencode(kept), str(resizing) if resizing else "")))
    found = "train" if name == "train" else "test" if name == "test" else "val"
    pixels = StoredPixels(rows.read, np.arange(len(y_N)), first.shape)
    return ImageSet(
        source + (f"?{shown}" if shown else ""),
        found,
        pixels,
        y_N.astype(np.int64),
        names,
        all_classes=bool(named),
    )


def _open(path: str, source: str, config: str | None) -> Any:
    """The splits of a dataset, by name."""
    package = extras.load("hub", "datasets", source)
    try:
        with download_timeout():
            package.utils.logging.disable_progress_bar()
            return package.load_dataset(path, config)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"{source} cannot be loaded ({lines[0][:200]}). Check its name and the network, or add "
            "?config=NAME if it has several parts."
        ) from error


def _columns(table: Any, source: str, own: dict[str, str]) -> tuple[str, str]:
    """The columns of images and labels."""
    images = [name for name, feature in table.features.items() if type(feature).__name__ == "Image"]
    classes = [name for name, feature in table.features.items() if type(feature).__name__ == "ClassLabel"]
    whole = [
        name
        for name, feature in table.features.items()
        if str(getattr(feature, "dtype", "")).startswith("int")
    ]
    found = []
    for option, choices in (("image", images), ("label", classes or whole)):
        if option in own:
            if own[option] not in table.features:
                raise unknown(f"column of {source}", own[option], tuple(table.features))
            found.append(own[option])
        elif len(choices) == 1:
            found.append(choices[0])
        elif option in choices:
            found.append(option)
        else:
            raise UserError(
                f"{source} has {len(choices)} columns that may be the {option} "
                f"({', '.join(choices) or 'none'}). Choose one with "
                f"?{option}=COLUMN (it has {', '.join(table.features)})."
            )
    return found[0], found[1]


@dataclass(frozen=True)
class HubImages:
    """The images of a table, which are stored as files or as the content of files."""

    table: Any
    column: str
    source: str
    resizing: _resizing.Resizing | None
    shape: tuple[int, ...] = ()
    """(H, W, C)"""

    def decoded(self, number: int) -> NDArray[np.uint8]:
        """One image as it is stored, resized and cropped."""
        cell, name = self.table[number][self.column], f"Image {number} of {self.source}"
        change = self.resizing.apply if self.resizing else None
        if cell["bytes"] is None:
            return strict_image.read(Path(cell["path"]), name, change=change)
        return strict_image.decode(cell["bytes"], name, change=change)

    def read(self, number: int) -> NDArray[np.uint8]:
        """One image (H, W, C); grey and colour as in the first one."""
        image = self.decoded(number)
        if image.shape[:2] != self.shape[:2]:
            raise UserError(
                f"Images of {self.source} differ in size: {self.shape[1]}x{self.shape[0]} and "
                f"{image.shape[1]}x{image.shape[0]}. Resize and crop them: {self.source}?resize=256&crop=224."
            )
        if image.shape[2] > self.shape[2]:
            raise UserError(f"{self.source} begins with a grey image, but image {number} has colours.")
        return np.broadcast_to(image, self.shape)
