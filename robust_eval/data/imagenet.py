"""ImageNet (ILSVRC 2012), 1,000 classes: RobustBench's 5,000 validation images; all 50,000 are the split val.

Expects one folder per class, named by its WordNet id: ``val/n01440764/ILSVRC2012_val_00000293.JPEG``. As in
RobustBench, the shorter side is resized to 256 pixels and the central 224 x 224 are cut out;
``imagenet?interpolation=bicubic`` or ``imagenet?resize=235&crop=224`` change that. Nothing is downloaded: the
images may be used under the terms of image-net.org only.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robust_eval.core import extras, regular_file
from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet, Split, _resizing, folder
from robust_eval.data._image_files import ImageFiles

ARGUMENT = None
OPTIONS = "?resize=256&crop=224&interpolation=bilinear"
SPLITS = ("test", "val", "train")
CLASSES = 1000
STEPS = _resizing.Resizing(256, 224)
"""RobustBench's "Res256Crop224"."""
_PLACES = ("imagenet", "ImageNet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC", "")
_IDS = "helper_files/imagenet_test_image_ids.txt"


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load ``val`` or ``train`` under ``root``, or under ``root/imagenet``. ``argument``: the steps, or "".

    Images are always read as three channels. Classes are numbered in the order of their WordNet ids, as by
    everybody.
    """
    steps = _resizing.parse(argument, "imagenet", STEPS) if argument else STEPS
    if not steps.crop:
        raise UserError("imagenet needs a crop, because its images differ in size: add &crop=224.")
    base = find_folder(root, "train" if split == "train" else "val", _PLACES, "imagenet")
    names = sorted(folder.class_folders(base, base))
    if len(names) != CLASSES:
        raise UserError(
            f"{base} has {len(names)} class folders, ImageNet has {CLASSES:,}. Sort the images into folders "
            "n01440764, n01443537, ..., or give a part of the classes as folder:DIR?resize=256&crop=224."
        )
    if split == "test":
        listed = robustbench_ids()
        paths = [base / name for name in listed]
        missing = next((path for path in paths if not path.is_file()), None)
        if missing is not None:
            raise UserError(f"{missing} is missing, one of RobustBench's 5,000 images.")
    else:
        paths = [path for name in names for path in folder.image_paths(base / name, base)]
    if not paths:
        raise UserError(
            f"{base} has no images: expected files such as n01440764/ILSVRC2012_val_00000293.JPEG."
        )
    numbers = {name: number for number, name in enumerate(names)}
    y_N = np.array([numbers[path.relative_to(base).parts[0]] for path in paths], dtype=np.int64)
    pixels = ImageFiles(tuple(paths), base, (steps.crop, steps.crop), steps).stored(3)
    return ImageSet("imagenet" if steps == STEPS else f"imagenet?{steps}", split, pixels, y_N, tuple(names))


def find_folder(root: Path, part: str, places: Sequence[str], name: str) -> Path:
    """The folder ``part`` under ``root`` or one of its ``places``; :class:`UserError` if there is none."""
    for place in places:
        base = root / place / part
        if base.is_dir():
            return base
    raise UserError(
        f"{name} is not in {root}: expected {root / places[0] / part} with one folder of images per class. "
        "Put it there, or point --data-root at the folder that contains it."
    )


def robustbench_ids() -> list[str]:
    """RobustBench's 5,000 images, ``class/file``, from the installed package, which is not imported."""
    purpose = "imagenet with RobustBench's 5,000 images (all 50,000: --split val)"
    file = extras.file("zoo", "robustbench", _IDS, purpose)
    names = regular_file.read_text(file, "lists of images", 2**24).split()
    if not names or not all(re.fullmatch(r"n\d{8}/\w+\.JPEG", name) for name in names):
        raise UserError(f"{file} is not the list of RobustBench's images. Install robustbench again.")
    return names
