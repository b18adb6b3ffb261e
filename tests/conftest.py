"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported: tests work on tensors too small to share between threads, and threads that
# wait for each other on a busy machine made them eight times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real data (MNIST, CIFAR-10 copies) where there is some; tests that need it are skipped elsewhere."""
    fallback = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("ROBUST_EVAL_DATA", fallback))
    if not root.is_dir():
        pytest.skip("no real data: set ROBUST_EVAL_DATA to a folder with mnist/ and cifar10-lossless/")
    return root
