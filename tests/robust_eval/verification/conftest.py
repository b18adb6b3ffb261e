"""A published result with its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from support.published_runs import IMAGES, X_NCHW, make_checkpoint, run


@pytest.fixture(scope="package")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with checkpoint and images; the network predicts nine tenths of the labels."""
    folder = tmp_path_factory.mktemp("original")
    network = make_checkpoint(folder / "net.pt")
    with torch.no_grad():
        y = network(X_NCHW).argmax(1).numpy()
    y[::10] = (y[::10] + 1) % 10
    names = np.array([str(k) for k in range(10)])
    np.savez(folder / "images.npz", x=IMAGES, y=y, class_names=names)
    result = run(folder)
    assert 0 < result.worst_case.n_robust < result.columns["fgsm"].n_robust < 54
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test can manipulate."""
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"
