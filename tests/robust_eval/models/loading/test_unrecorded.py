"""What is chosen, and what is flagged, for foreign networks that were trained with data augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robust_eval import data
from robust_eval.models.architectures import wrn
from robust_eval.models.loading import batchnorm_choice, checkpoint
from robust_eval.models.loading.load_task import LoadedModel
from robust_eval.verification.selftest.foreign_files import Foreign, State


def load(state: State, path: Path, normalisation: str | None = None) -> LoadedModel:
    torch.save(state, path)
    return checkpoint.load(str(path), images=data.load("digits"), normalisation=normalisation)


def mixed(x_NCHW: Tensor) -> Tensor:
    share = torch.rand(len(x_NCHW), 1, 1, 1)
    return share * x_NCHW + (1 - share) * x_NCHW[torch.randperm(len(x_NCHW))]


def cut_out(x_NCHW: Tensor, fill: float = 0.0) -> Tensor:
    x_NCHW = x_NCHW.clone()
    for image, (row, column) in zip(x_NCHW, torch.randint(-2, 6, (len(x_NCHW), 2)).tolist(), strict=True):
        image[:, max(row, 0) : row + 4, max(column, 0) : column + 4] = fill
    return x_NCHW


def filled_with_the_mean(x_NCHW: Tensor) -> Tensor:
    return cut_out(x_NCHW, float(x_NCHW.mean()))


def pasted(x_NCHW: Tensor) -> Tensor:
    """CutMix with squares of half the width."""
    other, x_NCHW = x_NCHW[torch.randperm(len(x_NCHW))], x_NCHW.clone()
    x_NCHW[:, :, 2:6, 1:5] = other[:, :, 2:6, 1:5]
    return x_NCHW


AUGMENTATIONS = (mixed, cut_out, filled_with_the_mean, pasted)


@pytest.mark.parametrize(
    ("augment", "activation"),
    [
        *((augment, torch.relu) for augment in AUGMENTATIONS[1:]),
        (AUGMENTATIONS[0], F.gelu),
        pytest.param(AUGMENTATIONS[0], torch.relu, marks=pytest.mark.slow),
        *(pytest.param(augment, F.gelu, marks=pytest.mark.slow) for augment in AUGMENTATIONS[1:]),
    ],
)
def test_statistics_of_augmented_images_are_recognised(
    augment: Callable[[Tensor], Tensor], activation: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    loaded = load(Foreign(activation, augment=augment).state(), tmp_path / "c.pt")
    assert loaded.doubts.findings == ()
    assert loaded.doubts.rivals == ()
    assert loaded.ref.normalisation.name == "none"
    assert loaded.ref.architecture.arguments == ({"activation": "gelu"} if activation is F.gelu else {})


@pytest.mark.parametrize(
    "foreign", [Foreign(scale=0.82), Foreign(scale=2.0), Foreign(torch.abs), Foreign(torch.square)]
)
def test_another_function_is_not_explained_by_augmentation(foreign: Foreign, tmp_path: Path) -> None:
    loaded = load(foreign.state(), tmp_path / "c.pt", normalisation="none")
    assert "batchnorm-mismatch" in dict(loaded.doubts.findings)


@pytest.mark.parametrize(("arch", "assumed"), [(None, True), ("wrn-10-1?activation=gelu", False)])
def test_an_activation_is_assumed_unless_it_is_named(arch: str | None, assumed: bool, tmp_path: Path) -> None:
    """Too few images for BatchNorm statistics, as if there were none."""
    torch.save(Foreign(F.gelu).state(), tmp_path / "c.pt")
    images = data.load("digits").take(batchnorm_choice.LEAST - 1)
    loaded = checkpoint.load(str(tmp_path / "c.pt"), images=images, arch=arch, normalisation="none")
    assert ("default assumed" in " ".join(loaded.ref.notes)) == assumed
    assert loaded.ref.architecture.arguments == ({} if assumed else {"activation": "gelu"})


class Dropped(wrn.WideBlock):
    """The block of Zagoruyko and Komodakis, with dropout between its convolutions."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.activation(self.bn1(x))
        skip = self.convShortcut(out) if hasattr(self, "convShortcut") else x
        hidden = F.dropout(self.activation(self.bn2(self.conv1(out))), 0.3, self.training)
        change: Tensor = self.conv2(hidden)
        return change + skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "mixup", "cutout", "dropout"])
def test_a_network_trained_with_augmentation_raises_no_flag(kind: str, tmp_path: Path) -> None:
    x, y = data.load("digits", split="train").tensors()
    torch.manual_seed(0)
    network = wrn.build(classes=10, channels=1, image_size=(8, 8), depth=10, width=1)
    for module in network.modules():
        if kind == "dropout" and isinstance(module, wrn.WideBlock):
            module.__class__ = Dropped
    optimiser = torch.optim.Adam(network.train().parameters(), 3e-3)
    for _ in range(12):
        for rows in torch.randperm(len(x)).split(64):
            other = rows[torch.randperm(len(rows))]
            share = float(torch.rand(())) if kind == "mixup" else 1.0
            images = cut_out(x[rows]) if kind == "cutout" else share * x[rows] + (1 - share) * x[other]
            logits = network(images)
            loss = share * F.cross_entropy(logits, y[rows]) + (1 - share) * F.cross_entropy(logits, y[other])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    loaded = load(network.state_dict(), tmp_path / "c.pt")
    assert loaded.doubts.findings == ()
    assert loaded.doubts.rivals == ()
    assert loaded.ref.architecture.arguments == {}
