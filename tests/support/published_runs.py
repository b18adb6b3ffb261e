"""Runs of a small network on 60 random images, and their verification."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robust_eval.core.threat import parse_threat
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.evaluation import prepare
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.run import execute
from robust_eval.models.architectures import build
from robust_eval.models.loading.checkpoint import CheckpointDescription, save
from robust_eval.results import EvalResult
from robust_eval.results.verification_record import Verification
from robust_eval.verification import verify
from robust_eval.verification.options import VerifyOptions

EPS = "0.03"
N = 60
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 1), dtype=np.uint8)
X_NCHW = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255


def make_checkpoint(path: Path, seed: int = 0, *, scale: float = 1.0) -> torch.nn.Module:
    """Random weights, with the last layer's bias chosen so that all classes are predicted."""
    torch.manual_seed(seed)
    network = build("digits-cnn", classes=10, channels=1, image_size=(8, 8), width=4, hidden=16).eval()
    with torch.no_grad():
        weight, bias = list(network.parameters())[-2:]
        bias -= network(X_NCHW).mean(0)
        weight *= scale
        bias *= scale
    save(
        path,
        network,
        CheckpointDescription(
            architecture=Architecture("digits-cnn", {"width": 4, "hidden": 16}),
            normalisation=Normalisation("none"),
            classes=10,
            channels=1,
            image_size=(8, 8),
            dataset="digits",
            threat=parse_threat("Linf", EPS),
            recipe={"name": "at", "selection": {"validation": 100}},
        ),
    )
    return network


def run(folder: Path, checkpoint: str = "net.pt", data: str = "images.npz", **changes: Any) -> EvalResult:
    wanted: dict[str, Any] = {"suite": "fgsm,pgd-10", "eps": EPS, "batch_size": 32} | changes
    options = EvaluationOptions(
        checkpoint=str(folder / checkpoint), data=f"npz:{folder / data}", device="cpu", **wanted
    )
    out = folder / "out"
    result = execute(prepare.prepare(options), out, command=options.command())
    for name in ("result.json", "evidence.safetensors"):
        (out / name).replace(folder / name)
    shutil.rmtree(out)
    return result


def options_of(folder: Path, **changes: Any) -> VerifyOptions:
    """Options that verify the result of a folder with the files beside it."""
    wanted: dict[str, Any] = {"checkpoint": str(folder / "net.pt"), "data": f"npz:{folder / 'images.npz'}"}
    return VerifyOptions(device="cpu", **(wanted | changes))


def verified(folder: Path, **changes: Any) -> Verification:
    return verify.verify_result(folder / "result.json", options_of(folder, **changes))


def failed(folder: Path, **changes: Any) -> dict[str, str]:
    """Failed checks by name."""
    found = verified(folder, **changes)
    assert not found.passed
    return {check.name: check.detail for check in found.checks if not check.passed}
