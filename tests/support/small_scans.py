"""A small trained-enough checkpoint, some digits, and scans of seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from robust_eval.core.types import Architecture, Normalisation
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.landscape import checkpoints
from robust_eval.landscape.awp import scan as scanning
from robust_eval.landscape.awp.scan import Scan
from robust_eval.models import architectures
from robust_eval.models.loading.checkpoint import CheckpointDescription, save

OPTIONS = EvaluationOptions(checkpoint="", data="digits", split="train", examples=12, eps="0.1")


def write(path: Path, *, seed: int = 0, arch: str = "digits-cnn", **arguments: Any) -> Path:
    """A checkpoint of this project's format with random weights; the last layer is not zero."""
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


def scan(*paths: Path, count: int = 2, steps: int = 3, batch_size: int = 8, **changes: Any) -> Scan:
    """A scan of checkpoints on 12 digits."""
    options = changes.pop("options", OPTIONS)
    found = checkpoints.prepare([str(path) for path in paths], options)
    return scanning.make(found, count=count, steps=steps, batch_size=batch_size, seed=0, **changes)
