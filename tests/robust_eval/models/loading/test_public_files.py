"""A public checkpoint and real images, loaded without options."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch

from robust_eval import data
from robust_eval.core.types import Architecture
from robust_eval.models.loading import checkpoint


def test_the_resnet_that_ships_with_autoattack(data_root: Path) -> None:
    """Undefended, saved from CUDA, [0, 1] input: 94% on the exact CIFAR-10 test images."""
    archive = data_root / "cifar10-lossless" / "test_first_846.npz"
    if not archive.is_file():
        pytest.skip("no exact CIFAR-10 images")
    images = data.load(f"npz:{archive}")
    path = files("pyautoattack") / "examples" / "model_test.pt"
    loaded = checkpoint.load(str(path), images=images.take(32))
    assert loaded.ref.architecture == Architecture("resnet-18")
    assert loaded.ref.normalisation.name == "none"
    assert (loaded.ref.name, loaded.ref.format, loaded.ref.classes) == ("model_test.pt", "foreign", 10)
    assert loaded.ref.sha256.startswith("399f52da9f91")
    x, y = images.take(64).tensors()
    with torch.no_grad():
        assert (loaded.model(x).argmax(1) == y).float().mean() > 0.92
