"""CIFAR-10-C: CIFAR-10's test images under 15 corruptions of 5 severities (Hendrycks and Dietterich, 2019).

``cifar10-c?corruption=fog&severity=3`` are 10,000 images; without options, all 750,000.
"""

from __future__ import annotations

from pathlib import Path

from robust_eval.data import ImageSet, Split, _corrupted

ARGUMENT = None
OPTIONS = _corrupted.OPTIONS
SPLITS = ("test",)
SOURCE = _corrupted.CifarSource(
    "CIFAR-10-C",
    "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
    "56bf5dcef84df0e2308c6dcbcbbd8499",
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load from ``root/CIFAR-10-C`` or ``root/cifar10-c``, or download it. ``argument``: the options."""
    return SOURCE.load("cifar10-c", argument, root)
