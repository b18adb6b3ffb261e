"""Images that are read when they are needed give the verdicts of those in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.untrained_checkpoint import untrained

from robust_eval.core import pixels
from robust_eval.core.float_images import FloatImages, images_of
from robust_eval.data import load
from robust_eval.evaluation import run
from robust_eval.evaluation.executors import shared_images
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare, prepare_again


@pytest.fixture
def options(tmp_path: Path) -> EvaluationOptions:
    """A small run on a folder of images."""
    images = load("digits").take(40)
    for number, (image, label) in enumerate(zip(images.x_NHWC, images.y_N, strict=True)):
        folder = tmp_path / "images" / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(folder / f"{number}.png")
    return EvaluationOptions(
        checkpoint=str(untrained(tmp_path / "net.safetensors", width=4, hidden=8)),
        data=f"folder:{tmp_path / 'images'}",
        suite="fgsm,pgd-10",
        batch_size=16,
        examples=37,
        device="cpu",
    )


def test_a_run_does_not_depend_on_where_the_images_are(
    options: EvaluationOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = prepare(options)
    monkeypatch.setattr(pixels, "HELD_BYTES", 0)
    stored = prepare(options)
    assert isinstance(stored.x_NCHW, FloatImages)
    assert stored.request.key == held.request.key
    results = [run.execute(job, tmp_path / name) for job, name in ((held, "held"), (stored, "stored"))]
    one, other = (result.model_dump(exclude={"created", "seconds", "command"}) for result in results)
    for result in (one, other):
        for column in result["columns"].values():
            column.pop("seconds", None)
    assert one["columns"].keys() == other["columns"].keys()
    assert [one["worst_case"][key] for key in ("accuracy", "robust_bits")] == [
        other["worst_case"][key] for key in ("accuracy", "robust_bits")
    ]
    assert one["flags"] == other["flags"]
    assert one["evidence"] == other["evidence"]
    again = prepare_again(options, stored.request)
    assert again.request.key == stored.request.key


@pytest.mark.parametrize("kind", ["stored", "array", "tensor"])
def test_processes_share_images(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x_NHWC = load("digits").take(5).x_NHWC
    given = pixels.StoredPixels(x_NHWC.__getitem__, np.arange(5), (8, 8, 1)) if kind == "stored" else x_NHWC
    if kind != "tensor":
        monkeypatch.setattr(pixels, "HELD_BYTES", 0)
    images = images_of(given)
    assert isinstance(images, FloatImages) == (kind != "tensor")
    shared = shared_images.share("f", images, torch.arange(5), tmp_path)
    assert (tmp_path / "images.npy").exists() == (kind != "stored")
    found, y_N = shared.tensors()
    assert torch.equal(found[1:4], load("digits").take(5).tensors()[0][1:4])
    assert y_N.tolist() == [0, 1, 2, 3, 4]


def test_float_images_are_indexed_like_a_tensor() -> None:
    x_NHWC = np.random.default_rng(0).integers(0, 256, (6, 3, 4, 2), dtype=np.uint8)
    images, tensor = FloatImages(x_NHWC), images_of(x_NHWC)
    assert isinstance(tensor, torch.Tensor)
    assert (images.shape, len(images), images.device) == (tensor.shape, 6, tensor.device)
    assert images.to("meta")[:2].is_meta
    mask = torch.tensor([True, False, True, False, False, True])
    for rows in (slice(2, 5), torch.tensor([5, 0]), mask, [1, 3]):
        assert torch.equal(images[rows], tensor[rows])
