"""Images that are read when they are needed give the verdicts of those in memory."""

from __future__ import annotations

import subprocess
import sys
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


MEASURED = """
import sys
from pathlib import Path
from robust_eval.core import memory
from robust_eval.evaluation import run
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare

top = Path(sys.argv[1])
options = EvaluationOptions(
    checkpoint=str(top / "net.pt"), arch=f"{top / 'net.py'}:Net", normalisation="none",
    data=f"folder:{sys.argv[2]}", suite="clean", eps="1/255", batch_size=50, device="cpu",
)
run.execute(prepare(options), Path(sys.argv[2]) / ".run")
print(memory.peak())
"""
NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x.mean((2, 3)))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    """1,800 and 3,000 images of 224x224, whose pixels have 258 and 431 MiB."""
    (tmp_path / "net.py").write_text(NETWORK)
    weight = torch.tensor([[-9.0, 0, 0], [9.0, 0, 0]])
    torch.save({"linear.weight": weight, "linear.bias": torch.tensor([4.5, -4.5])}, tmp_path / "net.pt")
    peaks = []
    for n in (1800, 3000):
        for label in (0, 1):
            folder = tmp_path / str(n) / str(label)
            folder.mkdir(parents=True)
            Image.new("RGB", (224, 224), (60 + 130 * label, 90, 90)).save(folder / "0.jpg")
            for number in range(1, n // 2):
                (folder / f"{number}.jpg").hardlink_to(folder / "0.jpg")
        command = [sys.executable, "-c", MEASURED, str(tmp_path), str(tmp_path / str(n))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 2**20)
    assert peaks[1] < peaks[0] + 80, peaks
