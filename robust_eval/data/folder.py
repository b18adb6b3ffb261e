"""Images in one folder per class: ``DIR/<class>/*.png``, or ``DIR/train/<class>/`` and ``DIR/test/<class>/``.

``DIR/val/<class>/`` takes the place of a missing test folder. Classes are numbered in alphabetical order of
the folder names of all splits. The folder is untrusted: links to places outside it are refused.
``DIR?resize=256&crop=224`` resizes and crops the images (:mod:`robust_eval.data._resizing`); their name then
contains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from robust_eval.core.errors import UserError
from robust_eval.core.pixels import Pixels
from robust_eval.data import ImageSet, Split, _image_files, _resizing

ARGUMENT = "DIR"
SPLITS = ("train", "test", "val")
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif"}


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load all images under the folder ``argument`` (relative to the working directory, not to ``root``)."""
    folder, base, query = argument, Path(argument).expanduser(), ""
    if not base.is_dir():
        folder, _, query = argument.partition("?")
        base = Path(folder).expanduser()
    if not base.is_dir():
        raise UserError(f"{folder} is not a folder. Write folder:DIR with one subfolder per class.")
    splits = {name: base / name for name in SPLITS if class_folders(base / name, base)}
    if split == "test" and split not in splits and "train" in splits and "val" in splits:
        split = "val"
    if splits.keys() == {"val"} and split != "val":
        splits = {}  # a class may be called val
    if splits and split not in splits:
        raise UserError(f"{folder} has a {next(iter(splits))} folder but no {split} folder.")
    top = splits.get(split, base)
    names = sorted({name for folder in (splits.values() or [base]) for name in class_folders(folder, base)})
    paths = [(path, label) for label, name in enumerate(names) for path in image_paths(top / name, base)]
    if not paths:
        raise UserError(f"{folder} has no images: expected files such as {top.name}/<class>/0001.png.")
    resizing = _resizing.parse(query, f"folder:{folder}") if folder != argument else None
    x_NHWC = _image_files.read([path for path, _ in paths], base, resizing)
    y_N = np.array([label for _, label in paths], dtype=np.int64)
    name = f"folder:{base.resolve().name}" + (f"?{resizing}" if resizing else "")
    return ImageSet(name, split if splits else "all", x_NHWC, y_N, tuple(names))


def load_without_classes(base: Path) -> Pixels:
    """The images (N, H, W, C) of a folder that contains images directly. Raises like :func:`load`."""
    paths = image_paths(base, base)
    if not paths:
        raise UserError(f"{base} has no images: expected files such as 0001.png.")
    return _image_files.read(paths, base)


def class_folders(folder: Path, base: Path) -> list[str]:
    """Names of the class folders; hidden folders and ``__MACOSX`` are skipped."""
    if not folder.is_dir():
        return []
    _refuse_link(folder, base)
    found = [path for path in _entries(folder, base) if path.is_dir() and not path.name.startswith("__")]
    for path in found:
        _refuse_link(path, base)
    return [path.name for path in found]


def image_paths(folder: Path, base: Path) -> list[Path]:
    """The image files of a class at any depth, in alphabetical order."""
    found, left = [], [folder] if folder.is_dir() else []
    while left:
        for path in _entries(left.pop(), base):
            if path.is_dir():
                _refuse_link(path, base)
                left.append(path)
            elif path.suffix.lower() in _SUFFIXES:
                _refuse_link(path, base)
                found.append(path)
    return sorted(found)


def _entries(folder: Path, base: Path) -> Iterator[Path]:
    """The entries of a folder, except hidden ones. Refuses names that could not be written to a result."""
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise UserError(
            f"{_image_files.shown(folder, base)} cannot be read: {error.strerror or error}."
        ) from None
    for path in entries:
        shown = path.name.encode(errors="surrogateescape").decode(errors="replace")
        if shown != path.name:
            raise UserError(f"{shown} in {folder.name} has a name that is not valid UTF-8 text. Rename it.")
        if not path.name.startswith("."):
            yield path


def _refuse_link(path: Path, base: Path) -> None:
    """Raise :class:`UserError` for links that leave ``base``, lead nowhere, or lead to a folder."""
    if path == base or not path.is_symlink():
        return
    try:
        inside = path.resolve(strict=True).is_relative_to(base.resolve())
    except (OSError, RuntimeError):
        raise UserError(
            f"{_image_files.shown(path, base)} is a link that leads nowhere. Remove it."
        ) from None
    if not inside:
        raise UserError(
            f"{_image_files.shown(path, base)} is a link out of the folder {base.name}. Copy what it names."
        )
    if path.is_dir():
        raise UserError(f"{_image_files.shown(path, base)} is a link to a folder. Copy that folder.")
