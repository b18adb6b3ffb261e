"""ImageNet-C: validation images of ImageNet under 15 corruptions of 5 severities, 224x224.

Reads ``ImageNet-C/<corruption>/<severity>/<WordNet id>/*.JPEG``, also with the folders of the archives above
(``noise/gaussian_noise``). Of each part, RobustBench's 5,000 images are taken, or all 50,000 (split ``val``).
Nothing is downloaded: the archives at zenodo.org/records/2235448 have 75 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import strict_image
from robust_eval.core.errors import UserError
from robust_eval.core.pixels import StoredPixels
from robust_eval.data import ImageSet, Split, _corrupted, folder, imagenet

ARGUMENT = None
OPTIONS = _corrupted.OPTIONS
SPLITS = ("test", "val")
SIDE = 224
_PLACES = ("ImageNet-C", "imagenet-c", "")


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load from ``root/ImageNet-C``. ``argument``: the options."""
    choice = _corrupted.parse("imagenet-c", argument)
    tops = [_find(root, corruption) for corruption in choice.corruptions]
    first = tops[0] / str(choice.severities[0])
    names = sorted(folder.class_folders(first, first))
    if len(names) != imagenet.CLASSES:
        raise UserError(f"{first} has {len(names)} class folders, ImageNet has {imagenet.CLASSES:,}.")
    if split == "test":
        images = imagenet.robustbench_ids()
    else:
        images = [f"{name}/{path.name}" for name in names for path in folder.image_paths(first / name, first)]
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[image.partition("/")[0]] for image in images], dtype=np.int64)
    folders = [top / str(severity) for top in tops for severity in choice.severities]
    missing = next((path for path in folders if not path.is_dir()), None)
    if missing is not None:
        raise UserError(f"{missing} is missing, a part of {choice.name}. Unpack its archive.")
    y_N = np.tile(labels, len(folders))
    reader = _ImageNetReader(tuple(folders), tuple(images))
    pixels = StoredPixels(reader.read, np.arange(len(y_N)), (SIDE, SIDE, 3))
    return ImageSet(choice.name, split, pixels, y_N, tuple(names))


def _find(root: Path, corruption: str) -> Path:
    """The folder of a corruption, in the folder of its category or not."""
    for place in _PLACES:
        for path in (root / place / corruption, *sorted((root / place).glob(f"*/{corruption}"))):
            if path.is_dir():
                return path
    raise UserError(
        f"imagenet-c is not in {root}: expected {root / 'ImageNet-C' / corruption / '1'} with one folder of "
        "images per class (zenodo.org/records/2235448), or point --data-root at the folder that contains it."
    )


@dataclass(frozen=True)
class _ImageNetReader:
    """Images by number: by folder, then by name."""

    folders: tuple[Path, ...]
    names: tuple[str, ...]

    def read(self, number: int) -> NDArray[np.uint8]:
        part, image = divmod(number, len(self.names))
        path = self.folders[part] / self.names[image]
        found = strict_image.read(path, str(path), (SIDE, SIDE))
        if not found.size:
            raise UserError(f"{path} is {found.shape[1]}x{found.shape[0]}; ImageNet-C has {SIDE}x{SIDE}.")
        return found
