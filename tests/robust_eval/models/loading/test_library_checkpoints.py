"""``timm:NAME``, ``torchvision:NAME`` and ``hf-hub:ORG/NAME``, with networks that are not downloaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.models.loading import checkpoint, file_head, library_checkpoints

timm = pytest.importorskip("timm")
models = pytest.importorskip("torchvision.models")
LABELS = 40
NAMES = tuple(map(str, range(1000)))


def images(size: int) -> ImageSet:
    x_NHWC = np.random.default_rng(0).integers(0, 256, (LABELS, size, size, 3), dtype=np.uint8)
    return ImageSet("generated", "test", x_NHWC, np.arange(LABELS), NAMES)


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretrained networks get random weights instead."""
    real_timm, real_torchvision = timm.create_model, models.get_model

    def from_timm(name: str, pretrained: bool = False, **arguments: Any) -> nn.Module:
        torch.manual_seed(0)
        network: nn.Module = real_timm(name.replace("hf-hub:timm/", ""), pretrained=False, **arguments)
        return network

    def from_torchvision(name: str, weights: object, progress: bool) -> nn.Module:
        assert weights is not None
        torch.manual_seed(0)
        network: nn.Module = real_torchvision(name, weights=None)
        return network

    monkeypatch.setattr(timm, "create_model", from_timm)
    monkeypatch.setattr(models, "get_model", from_torchvision)


@pytest.mark.usefixtures("downloads")
@pytest.mark.parametrize(
    ("source", "size", "normalisation", "weights"),
    [
        ("timm:resnet10t.c3_in1k", 64, "imagenet", "resnet10t.c3_in1k"),
        ("timm:vit_tiny_patch16_224", 224, "2x-1", "vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
        ("hf-hub:timm/resnet10t.c3_in1k", 64, "imagenet", "resnet10t.c3_in1k"),
        ("torchvision:shufflenet_v2_x0_5", 64, "imagenet", "IMAGENET1K_V1"),
        ("torchvision:resnet18?weights=IMAGENET1K_V1", 64, "imagenet", "IMAGENET1K_V1"),
    ],
)
def test_the_normalisation_of_the_library_is_part_of_the_model(
    source: str, size: int, normalisation: str, weights: str
) -> None:
    loaded = checkpoint.load(source, images=images(size))
    ref = loaded.ref
    assert (ref.name, ref.classes, ref.normalisation.name) == (source, 1000, normalisation)
    assert ref.notes[0].startswith(f"weights {weights}; trained on images of ")
    x_NCHW = images(size).tensors()[0][:2]
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1) for values in (ref.normalisation.mean, ref.normalisation.std)
    )
    assert torch.equal(loaded.model(x_NCHW), loaded.network((x_NCHW - mean) / std))
    assert checkpoint.load(source, images=images(size)).ref.sha256 == ref.sha256


@pytest.mark.usefixtures("downloads")
@pytest.mark.parametrize(
    ("source", "given", "message"),
    [
        (
            "timm:vit_tiny_patch16_224",
            images(64),
            "takes images of 224x224 (resized to 249 (bicubic) and cropped",
        ),
        ("timm:resnet18x", images(64), "Unknown timm model 'resnet18x'"),
        ("torchvision:resnet19", images(64), "Unknown torchvision model 'resnet19'. Did you mean resnet18?"),
        ("torchvision:resnet18?weights=V7", images(64), "Unknown argument of torchvision:resnet18 'V7'"),
    ],
)
def test_models_and_images_that_do_not_fit(source: str, given: ImageSet, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        checkpoint.load(source, images=given)


def _fails(error: Exception) -> Callable[..., nn.Module]:
    def download(*_: object, **__: object) -> nn.Module:
        raise error

    return download


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError("unreachable"), "no connection"), (RuntimeError("bad hash\nmore"), "RuntimeError: bad hash")],
)
def test_a_failed_download_is_one_sentence(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm, "create_model", _fails(error))
    expected = (
        f"timm:resnet18 cannot be downloaded ({reason}). Check the network, or load a file with "
        "--arch timm:resnet18."
    )
    with pytest.raises(UserError, match=re.escape(expected)):
        checkpoint.load("timm:resnet18", images=images(64))


def test_every_library_is_recognised() -> None:
    assert {*library_checkpoints.SOURCES, "robustbench"} == set(file_head.LIBRARIES)


def test_architecture_and_normalisation_are_its_own() -> None:
    with pytest.raises(UserError, match=r"timm:resnet18 has its own architecture and normalisation\. Omit"):
        checkpoint.load("timm:resnet18", images=images(64), normalisation="none")
