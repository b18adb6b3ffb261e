"""Labels, channels and size of the images are compared with the model before a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.data import load
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.models.loading import checkpoint
from robust_eval.models.loading.checkpoint import CheckpointDescription

NETWORK = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
"""


def options(tmp_path: Path, x_NHWC: np.ndarray, y_N: np.ndarray) -> EvaluationOptions:
    """A run of a file of this project with code of the user, which records 10 classes and grey 8x8 images."""
    (tmp_path / "net.py").write_text(NETWORK)
    namespace: dict[str, object] = {}
    exec(NETWORK, namespace)
    torch.manual_seed(0)
    description = CheckpointDescription(
        architecture=Architecture("net.py:net"),
        normalisation=Normalisation("none"),
        classes=10,
        channels=1,
        image_size=(8, 8),
        dataset="npz:train.npz",
        threat=None,
    )
    checkpoint.save(tmp_path / "net.safetensors", namespace["net"](), description)  # type: ignore[operator]
    np.savez(tmp_path / "made.npz", x=x_NHWC, y=y_N)
    return EvaluationOptions(
        checkpoint=str(tmp_path / "net.safetensors"),
        arch=f"{tmp_path / 'net.py'}:net",
        data=f"npz:{tmp_path / 'made.npz'}",
        suite="fgsm",
        eps="0.1",
        device="cpu",
    )


DIGITS = load("digits").take(20)


def test_labels_from_1_are_recognised(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="labels of npz:made.npz run from 1 to 10. Number them from 0: save y - 1"
    ):
        prepare(options(tmp_path, DIGITS.in_memory(), DIGITS.y_N + 1))


def test_other_labels_beyond_the_outputs_are_refused(tmp_path: Path) -> None:
    labels = DIGITS.y_N.copy()
    labels[3] = 11
    with pytest.raises(
        UserError, match="has 10 classes, but npz:made.npz has the label 11. Number the classes"
    ):
        prepare(options(tmp_path, DIGITS.in_memory(), labels))


@pytest.mark.parametrize(
    ("x_NHWC", "problem"),
    [
        (
            np.repeat(DIGITS.in_memory(), 3, axis=3),
            "8x8 with 3 channels: .*expected input.* to have 1 channels",
        ),
        (
            np.pad(DIGITS.in_memory(), ((0, 0), (1, 1), (0, 2), (0, 0))),
            "10x10 with 1 channel: .*mat1 and mat2",
        ),
    ],
)
def test_other_channels_and_sizes_are_refused(tmp_path: Path, x_NHWC: np.ndarray, problem: str) -> None:
    with pytest.raises(
        UserError, match=f"net.safetensors does not take the images of npz:made.npz, {problem}"
    ):
        prepare(options(tmp_path, x_NHWC, DIGITS.y_N))
