"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

# Must be set before torch is imported. The tensors of the tests are too small for several threads: on a busy
# machine, waiting threads made the tests eight times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data (MNIST, CIFAR-10 copies); tests that use it are skipped if there is none."""
    fallback = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("ROBUST_EVAL_DATA", fallback))
    if not root.is_dir():
        pytest.skip("No real data: set ROBUST_EVAL_DATA to a folder with mnist/ and cifar10-lossless/.")
    return root


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Give a test the same random numbers whichever tests run before it."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _pickles_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a torch that would refuse pickles of other programs read those that the tests write."""
    if tuple(map(int, version("torch").split(".")[:2])) < (2, 10):
        monkeypatch.setattr("robust_eval.models.loading.file_reader.SAFE_TORCH", "2.6")
