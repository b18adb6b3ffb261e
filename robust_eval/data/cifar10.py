"""CIFAR-10: 60,000 colour images of 32x32 in 10 classes; 10,000 are the test split (Krizhevsky, 2009)."""

from __future__ import annotations

from pathlib import Path

from robust_eval.data import ImageSet, Split
from robust_eval.data._cifar import load_cifar

ARGUMENT = None


def load(argument: str, root: Path, split: Split) -> ImageSet:
    """Load from the "python version" folder under ``root``, or download it with torchvision."""
    from torchvision.datasets import CIFAR10

    return load_cifar("cifar10", CIFAR10, root, split)
