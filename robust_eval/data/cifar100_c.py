"""CIFAR-100-C: the test images of CIFAR-100 under the corruptions of CIFAR-10-C."""

from __future__ import annotations

from pathlib import Path

from robust_eval.data import ImageSet, Split, _corrupted

ARGUMENT = None
OPTIONS = _corrupted.OPTIONS
SPLITS = ("test",)
SOURCE = _corrupted.CifarSource(
    "CIFAR-100-C",
    "https://zenodo.org/records/3555552/files/CIFAR-100-C.tar",
    "11f0ed0f1191edbf9fa23466ae6021d3",
    tuple(map(str, range(100))),
)


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load from ``root/CIFAR-100-C`` or ``root/cifar100-c``, or download it. ``argument``: the options."""
    return SOURCE.load("cifar100-c", argument, root)
