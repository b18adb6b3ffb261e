"""Images of an attack that was run elsewhere are judged and verified like those of this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from support.published_runs import EPS, IMAGES, make_checkpoint, run, verified

from robust_eval import evaluate
from robust_eval.attacks import _foreign
from robust_eval.core.errors import UserError
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.evaluation.planning import suites
from robust_eval.results.evidence import read_evidence


@pytest.fixture(autouse=True)
def _nothing_named_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_foreign, "_named", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "net.pt")
    np.savez(tmp_path / "images.npz", x=IMAGES, y=np.arange(len(IMAGES)) % 10)
    return tmp_path


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_own_evidence_given_as_images_has_the_verdicts_of_its_attack(folder: Path, suffix: str) -> None:
    own = run(folder)
    _, images = read_evidence(folder / "evidence.safetensors").broken("pgd-10")
    x = np.random.default_rng(0).permutation(np.asarray(images))
    path = folder / f"theirs.{suffix}"
    if suffix == "npz":
        np.savez(path, x=x, author=np.array("A. Author"), paper=np.array("A paper"))
    else:
        save_file({"x": x}, path, {"author": "A. Author", "paper": "A paper"})
    given = run(folder, suite=f"fgsm,{path}")
    assert given.columns["theirs"].robust_bits == own.columns["pgd-10"].robust_bits
    assert given.columns["theirs"].n_invalid == 0
    (record,) = given.columns["theirs"].attacks
    assert record.citation == "A. Author: A paper"
    assert record.family == path.name
    assert record.library.startswith(f"{path.name} sha256:")


def test_images_in_8_bits_and_images_outside_the_ball(folder: Path) -> None:
    pixels = IMAGES.copy()
    # The first ten as the attack would leave them, the others twice epsilon away.
    pixels[10:] = np.where(pixels[10:] > 127, pixels[10:] - 12, pixels[10:] + 12)
    np.savez(folder / "theirs.npz", x=pixels)
    column = run(folder, suite=str(folder / "theirs.npz")).columns["theirs"]
    clean = run(folder, suite="clean").columns["clean"]
    assert column.n_invalid == parse_bits(clean.robust_bits)[10:].sum()
    assert column.n_robust == clean.n_robust


def test_in_memory(folder: Path) -> None:
    network = make_checkpoint(folder / "other.pt")
    x = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    np.savez(folder / "theirs.npz", x=x.numpy())
    result = evaluate(network, x, network(x).argmax(1), f"Linf {EPS}", suite=[str(folder / "theirs.npz")])
    assert result.columns["theirs"].accuracy == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": IMAGES}, "lacks the array x: save the adversarial images as x"),
        ({"x": IMAGES[0]}, r"x in theirs\.npz has shape \(8, 8, 1\); expected \(N, C, H, W\)"),
        ({"x": IMAGES.astype(np.int64)}, r"x in theirs\.npz is int64\. Save floats in \[0, 1\], or uint8"),
        ({"x": IMAGES.astype(np.float32)}, r"runs from 0 to 255\. Save pixels in \[0, 1\]"),
        ({"x": np.full((3, 1, 8, 8), np.nan, np.float32)}, "contains NaN or infinity"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    folder: Path, arrays: dict[str, np.ndarray[Any, Any]], message: str
) -> None:
    np.savez(folder / "theirs.npz", **arrays)
    with pytest.raises(UserError, match=message):
        suites.load(str(folder / "theirs.npz"))


def test_images_of_another_size_are_refused_before_the_run(folder: Path) -> None:
    np.savez(folder / "theirs.npz", x=np.zeros((3, 1, 4, 4), np.float32))
    with pytest.raises(UserError, match=r"The given images have \(4, 4\) pixels, the data \(8, 8\)"):
        run(folder, suite=str(folder / "theirs.npz"))


def test_the_run_is_verified_without_the_images(folder: Path) -> None:
    np.savez(folder / "theirs.npz", x=np.clip(IMAGES.transpose(0, 3, 1, 2) / 255 + 0.02, 0, 1))
    run(folder, suite=str(folder / "theirs.npz"))
    assert verified(folder).passed
