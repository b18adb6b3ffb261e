"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data (MNIST, CIFAR-10 copies) where there is some; tests that need it are skipped elsewhere."""
    fallback = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("ROBUST_EVAL_DATA", fallback))
    if not root.is_dir():
        pytest.skip("no real data: set ROBUST_EVAL_DATA to a folder with mnist/ and cifar10-lossless/")
    return root
