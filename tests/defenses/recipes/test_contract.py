"""Every recipe file trains a few updates on digits; new files are tested automatically."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from support.small_jobs import make_job, run

from robust_eval.core.discovery import config_ids
from robust_eval.data import load
from robust_eval.models.loading import checkpoint

NEEDS = {"rst": "unlabelled", "rst-awp": "unlabelled", "pretraining": "init", "pretraining-awp": "init"}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Inputs that some recipes need: pseudo-labelled images and a pre-trained network."""
    folder = tmp_path_factory.mktemp("given")
    digits = load("digits", split="train").take(40)
    np.savez(folder / "pseudo.npz", x=digits.x_NHWC, y=digits.y_N)
    run(make_job(folder / "run", "at", "normalisation=2x-1", epochs=1))
    return {"unlabelled": f"npz:{folder / 'pseudo.npz'}", "init": str(folder / "run" / "last.pt")}


@pytest.mark.parametrize("name", config_ids("recipes"))
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_a_recipe_trains_and_its_checkpoint_loads(
    name: str, norm: str, given: dict[str, str], tmp_path: Path
) -> None:
    options = {NEEDS[name]: given[NEEDS[name]]} if name in NEEDS else {}
    # With a warm-up, such a short run would have no weight perturbation.
    job = make_job(
        tmp_path / "run", name, "perturbation.warmup=0", norm=norm, epochs=4, held_out=16, **options
    )
    outcome = run(job)
    assert outcome.epochs == 4
    assert math.isfinite(outcome.last["loss"])
    assert outcome.last["perturbed"] == float(name.endswith("wp"))
    loaded = checkpoint.load(str(tmp_path / "run" / "best.pt"), images=job.train)
    with torch.no_grad():
        logits = loaded.model(job.train.take(4).tensors()[0])
    assert logits.shape == (4, 10)
    assert logits.isfinite().all()
    assert loaded.ref.trained_with is not None
    assert loaded.ref.trained_with["recipe"]["name"] == name
