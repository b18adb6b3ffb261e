"""Loading checkpoints for a comparison: images, architectures, threat models, labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import small_scans

from robust_eval.core.errors import UserError
from robust_eval.core.threat import parse_threat
from robust_eval.core.types import Architecture
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.landscape import checkpoints
from robust_eval.models.architectures import build
from robust_eval.models.loading.checkpoint import CheckpointDescription, save
from robust_eval.models.normalisation import NONE


def test_the_first_training_images_are_used(tmp_path: Path) -> None:
    path = small_scans.write(tmp_path / "net.pt")
    comparison = checkpoints.load_comparison([str(path)], EvaluationOptions(split="train"))
    assert (comparison.data.name, comparison.data.split, comparison.data.n) == ("digits", "train", 1000)
    assert len(comparison.y_N) == 1000
    few = checkpoints.load_comparison([str(path)], EvaluationOptions())
    assert few.data.n == 360, "all images if there are fewer than the default"
    assert str(few.threat) == "Linf 0.1"


def test_different_architectures_are_refused(tmp_path: Path) -> None:
    one = small_scans.write(tmp_path / "at.pt")
    wide = small_scans.write(tmp_path / "wide.pt", width=3, hidden=6)
    deep = small_scans.write(tmp_path / "deep.pt", arch="wrn-10-1")
    for other, name in ((wide, r"digits-cnn \(width=3, hidden=6, classes=10\)"), (deep, "wrn-10-1")):
        with pytest.raises(UserError, match=rf"at is a digits-cnn .* and \w+ a {name}.* cannot be compared"):
            checkpoints.load_comparison([str(one), str(other)], small_scans.OPTIONS)


def test_different_threat_models_require_norm_and_eps(tmp_path: Path) -> None:
    paths = []
    for eps in ("0.1", "0.2"):
        torch.manual_seed(0)
        network = build("digits-cnn", classes=10, channels=1, image_size=(8, 8), width=2, hidden=6)
        paths.append(str(tmp_path / f"{eps}.pt"))
        save(
            Path(paths[-1]),
            network,
            CheckpointDescription(
                architecture=Architecture("digits-cnn", {"width": 2, "hidden": 6}),
                normalisation=NONE,
                classes=10,
                channels=1,
                image_size=(8, 8),
                dataset="digits",
                threat=parse_threat("Linf", eps),
            ),
        )
    options = replace(small_scans.OPTIONS, eps=None)
    with pytest.raises(UserError, match=r"0\.1 was trained for Linf 0\.1 and 0\.2 for Linf 0\.2. Choose one"):
        checkpoints.load_comparison(paths, options)
    assert str(checkpoints.load_comparison(paths, replace(options, eps="0.15")).threat) == "Linf 0.15"


def test_labels_are_distinct() -> None:
    assert checkpoints.checkpoint_labels(["x/at.pt", "y/awp.pt"]) == ("at", "awp")
    assert checkpoints.checkpoint_labels(["x/best.pt", "y/best.pt"]) == ("x", "y")
    epochs = [f"runs/{run}/s0/epoch-{epoch}.pt" for run in ("at", "awp") for epoch in (1, 2)]
    assert checkpoints.checkpoint_labels(epochs) == ("at/epoch-1", "at/epoch-2", "awp/epoch-1", "awp/epoch-2")
    assert checkpoints.checkpoint_labels(["x/best.pt"]) == ("best",)
    assert checkpoints.checkpoint_labels(["x/best.pt", "x/best.pt"]) == ("A", "B")
    assert checkpoints.checkpoint_labels(["x/best.pt", "y/best.pt"], "AT, AT-AWP") == ("AT", "AT-AWP")
    for names in ("AT", "AT,AT", "AT,"):
        with pytest.raises(UserError, match="--names needs 2 different names, separated by commas"):
            checkpoints.checkpoint_labels(["x.pt", "y.pt"], names)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Unknown split 'valid'. Use test, train or val"):
        checkpoints.load_comparison([str(tmp_path)], EvaluationOptions(split="valid"))
