"""A head with one logit z is read as two classes with the logits (0, z), where the user says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from robust_eval import evaluate
from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.models import architectures
from robust_eval.models.loading import checkpoint
from robust_eval.models.outputs import TwoLogits

CODE = """
import torch.nn as nn

def net(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, {}))
"""


def two_classes(quadrants: Callable[..., ImageSet]) -> ImageSet:
    images = quadrants(64)
    return ImageSet(images.name, images.split, images.x_NHWC, images.y_N % 2, images.class_names[:2])


@pytest.mark.parametrize("external", ["", "classes", "1"])
def test_a_file_with_one_logit(external: str, quadrants: Callable[..., ImageSet], tmp_path: Path) -> None:
    """``external``: outputs of the last layer in code of the user; '' for a network of this package."""
    images = two_classes(quadrants)
    x = images.tensors()[0]
    shape = {"channels": images.channels, "image_size": images.image_size}
    arch = "resnet-18"
    network = architectures.build(arch, classes=1, **shape).eval()
    if external:
        arch = f"{tmp_path / 'code.py'}:net"
        (tmp_path / "code.py").write_text(CODE.replace("192", str(x[0].numel())).format(external))
        network = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 1))
    path = tmp_path / "net.pt"
    torch.save(network.state_dict(), path)
    if not external:
        sentence = (
            "net.pt has one output. If that is one logit for two classes, say so: --arch 'resnet-18?one_lo"
        )
        with pytest.raises(UserError, match=re.escape(sentence)):
            checkpoint.load(str(path), images=images, normalisation="none")
    options = {"images": images, "normalisation": "none"}
    loaded = checkpoint.load(str(path), arch=f"{arch}?one_logit=true", **options)  # type: ignore[arg-type]
    with torch.no_grad():
        z_N1 = network(x)
        assert torch.allclose(loaded.model(x), torch.cat([torch.zeros_like(z_N1), z_N1], 1), atol=1e-5)
    assert loaded.ref.classes == 2
    assert loaded.ref.architecture.arguments["one_logit"] is True
    again = checkpoint.load(str(path), arch=arch, known=loaded.ref, **options)  # type: ignore[arg-type]
    assert again.ref.architecture == loaded.ref.architecture or bool(external)
    with pytest.raises(UserError, match=r"one_logit can only be true\. Omit it"):
        checkpoint.load(str(path), arch=f"{arch}?one_logit=false", **options)  # type: ignore[arg-type]


def test_heads_with_several_logits_are_refused(quadrants: Callable[..., ImageSet], tmp_path: Path) -> None:
    images = quadrants(8)
    network = architectures.build(
        "resnet-18", classes=4, channels=images.channels, image_size=images.image_size
    )
    torch.save(network.state_dict(), tmp_path / "net.pt")
    with pytest.raises(UserError, match=r"net\.pt has no last layer with one logit\. Omit one_logit\."):
        checkpoint.load(str(tmp_path / "net.pt"), images=images, arch="resnet-18?one_logit=true")


@pytest.mark.parametrize("suite", ["fgsm", "aa"])
def test_models_in_memory(suite: str) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), torch.rand(12, 1, 8, 8)
    for y in (torch.zeros(12, dtype=torch.long), torch.arange(12) % 2):
        with pytest.raises(UserError, match=r"returns one logit per image\. .*outputs\.TwoLogits\(model\)\."):
            evaluate(model, x, y, "Linf 0.06", suite)
    y = (model(x)[:, 0] > 0).long()
    result = evaluate(TwoLogits(model), x, y, "Linf 0.2", suite)
    margin = (model(x)[:, 0].abs() - 0.2 * model[1].weight.abs().sum()).detach()
    # An image of a linear model is robust if |z| exceeds epsilon times the L1 norm of the weights.
    assert result.columns["clean"].accuracy == 1
    assert result.worst_case.accuracy >= float((margin > 0).float().mean())
