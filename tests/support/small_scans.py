"""Small checkpoints with random weights, and scans on 12 digits that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from robust_eval.core.types import Architecture, Normalisation
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.landscape.awp.scan import Scan, make_scan
from robust_eval.landscape.checkpoints import load_comparison
from robust_eval.models import architectures
from robust_eval.models.loading.checkpoint import CheckpointDescription, save

OPTIONS = EvaluationOptions(data="digits", split="train", examples=12, eps="0.1")


def write(path: Path, *, seed: int = 0, arch: str = "digits-cnn", **arguments: Any) -> Path:
    """Save a checkpoint of this project's format with random weights; the last layer is not zero."""
    torch.manual_seed(seed)
    arguments = arguments or ({"width": 2, "hidden": 6} if arch == "digits-cnn" else {})
    network = architectures.build(arch, classes=10, channels=1, image_size=(8, 8), **arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    save(
        path,
        network,
        CheckpointDescription(
            architecture=Architecture(arch, arguments),
            normalisation=Normalisation("none"),
            classes=10,
            channels=1,
            image_size=(8, 8),
            dataset="digits",
        ),
    )
    return path


def scan(*paths: Path, directions: int = 2, steps: int = 3, batch_size: int = 8, **changes: Any) -> Scan:
    """A scan of checkpoints on 12 digits."""
    options = changes.pop("options", OPTIONS)
    comparison = load_comparison([str(path) for path in paths], options)
    return make_scan(comparison, directions=directions, steps=steps, batch_size=batch_size, seed=0, **changes)
