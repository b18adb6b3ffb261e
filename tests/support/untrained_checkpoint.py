"""Write a checkpoint of an untrained digits network, for tests of commands."""

from __future__ import annotations

from pathlib import Path

import torch

from robust_eval.core.threat import parse_threat
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.models.architectures import build
from robust_eval.models.loading.checkpoint import CheckpointDescription, save


def untrained(path: Path, **arguments: int) -> Path:
    """Save a digits-cnn with these arguments (fixed seed) to ``path``; return the path."""
    torch.manual_seed(0)
    save(
        path,
        build("digits-cnn", classes=10, channels=1, image_size=(8, 8), **arguments),
        CheckpointDescription(
            architecture=Architecture("digits-cnn", arguments),
            normalisation=Normalisation("none"),
            classes=10,
            channels=1,
            image_size=(8, 8),
            dataset="digits",
            threat=parse_threat("Linf", "0.1"),
        ),
    )
    return path
