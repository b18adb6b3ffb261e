"""Small networks, and images that they learn to classify within a second of training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.known_models import with_batchnorm_statistics
from torch import nn

from robust_eval.core.seeds import seed_everything
from robust_eval.core.types import Normalisation
from robust_eval.data import ImageSet
from robust_eval.models import architectures
from robust_eval.models.normalisation import NORMALISATIONS, Normalised

CLASSES = 4


def quadrants(n: int, channels: int = 3, side: int = 16, seed: int = 0, name: str = "quadrants") -> ImageSet:
    """Noise around mid-grey with one brighter quadrant, which is the class."""
    rng = np.random.default_rng(seed)
    x = rng.integers(60, 140, (n, side, side, channels))
    y = rng.integers(0, CLASSES, n)
    half = side // 2
    for image, label in zip(x, y, strict=True):
        row, column = divmod(int(label), 2)
        image[row * half : (row + 1) * half, column * half : (column + 1) * half] += 60
    names = tuple(f"quadrant {label}" for label in range(CLASSES))
    return ImageSet(name, "test", x.astype(np.uint8), y.astype(np.int64), names)


def make(arch_id: str, **arguments: object) -> nn.Module:
    """A CIFAR-shaped network with 4 classes."""
    seed_everything(0)
    return with_batchnorm_statistics(
        architectures.build(arch_id, classes=CLASSES, channels=3, image_size=(32, 32), **arguments)
    )


def train(network: nn.Module, images: ImageSet, normalisation: Normalisation, steps: int = 40) -> nn.Module:
    x, y = images.tensors()
    model = Normalised(network, normalisation).train()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        part = slice(step * 32 % len(y), step * 32 % len(y) + 32)
        optimiser.zero_grad()
        F.cross_entropy(model(x[part]), y[part]).backward()
        optimiser.step()
    return network.eval()


Trained = Callable[[str], nn.Module]


@pytest.fixture(scope="session")
def trained() -> Trained:
    """``trained("cifar10")``: a wrn-10-1 trained behind that normalisation, once per session."""
    kept: dict[str, nn.Module] = {}

    def get(normalisation: str) -> nn.Module:
        if normalisation not in kept:
            seed_everything(0)
            network = architectures.build("wrn-10-1", classes=CLASSES, channels=3, image_size=(16, 16))
            kept[normalisation] = train(network, quadrants(640, seed=1), NORMALISATIONS[normalisation])
        return kept[normalisation]

    return get


@pytest.fixture(scope="session")
def images() -> ImageSet:
    """120 images for the trained networks."""
    return quadrants(120)


@pytest.fixture(scope="session", name="quadrants")
def quadrants_() -> Callable[..., ImageSet]:
    return quadrants


@pytest.fixture(scope="session", name="make")
def make_() -> Callable[..., nn.Module]:
    return make
