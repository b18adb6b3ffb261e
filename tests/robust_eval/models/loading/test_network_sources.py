"""``--arch timm:NAME`` and other networks that are built outside the package."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.models.loading import checkpoint, network_sources
from robust_eval.models.loading.network_sources import Shape

SHAPE = Shape(classes=4, channels=3, image_size=(16, 16))


def saved(network: nn.Module, tmp_path: Path) -> str:
    path = tmp_path / "c.pt"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.mark.parametrize(
    "arch",
    [
        "timm:resnet10t",
        "timm:vit_tiny_patch16_224?depth=1&patch_size=4",
        "torchvision:shufflenet_v2_x0_5",
    ],
)
def test_weights_for_a_network_of_a_library(arch: str, images: ImageSet, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = network_sources.build(arch, SHAPE).eval()
    loaded = checkpoint.load(saved(network, tmp_path), images=images, arch=arch, normalisation="none")
    x_NCHW = images.tensors()[0][:4]
    assert torch.equal(loaded.model(x_NCHW), network(x_NCHW))
    assert loaded.ref.architecture == network_sources.identity(arch)
    assert loaded.ref.architecture.id == arch.partition("?")[0]


@pytest.mark.skipif(find_spec("robustbench") is None, reason="the extra zoo is not installed")
def test_a_network_of_robustbench() -> None:
    shape = Shape(classes=10, channels=3, image_size=(32, 32))
    network = network_sources.build("robustbench:Wong2020Fast", shape)
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(UserError, match="has no arguments"):
        network_sources.build("robustbench:Wong2020Fast?width=3", shape)
    # The same name for CIFAR-10 and CIFAR-100.
    for classes in (10, 100):
        found = network_sources.build("robustbench:Rice2020Overfitting", Shape(classes, 3, (32, 32)))
        assert found.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, classes)


def test_an_importable_function(images: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mynets_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("from torch import nn\nFLAT = nn.Flatten\n")
    (package / "nets.py").write_text(
        "from torch import nn\nfrom .parts import FLAT\n"
        "def build(classes, width=3):\n"
        "    return nn.Sequential(FLAT(), nn.Linear(768, width), nn.Linear(width, classes))\n"
    )
    monkeypatch.chdir(tmp_path)
    arch = "mynets_of_a_test.nets:build?width=2"
    path = saved(network_sources.build(arch, SHAPE), tmp_path)
    ref = checkpoint.load(path, images=images, arch=arch, normalisation="none").ref
    assert ref.architecture.id == "mynets_of_a_test.nets:build"
    before = ref.architecture.arguments
    (package / "parts.py").write_text("from torch import nn\nFLAT = nn.Flatten  # edited\n")
    assert network_sources.identity(arch).arguments["code_sha256"] != before["code_sha256"]


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("timm:resnet18x", "Unknown timm model 'resnet18x'. "),
        ("timm:resnet10t?foo=3", "timm:resnet10t cannot be built for 4 classes and 3x16x16 images"),
        ("torchvision:resnet19", "Unknown torchvision model 'resnet19'. Did you mean resnet18?"),
        ("torchvision:resnet18?foo=3", "torchvision:resnet18 cannot be built"),
        (
            "nomodule_of_a_test:build",
            "There is no module 'nomodule_of_a_test'. --arch takes path.py:function",
        ),
        ("nomodule_of_a_test.nets:build", "nomodule_of_a_test.nets cannot be imported: ModuleNotFoundError"),
        ("json:loads", "json:loads failed: TypeError"),
        ("timm:resnet10t?checkpoint_path=w.pth", "the argument checkpoint_path is not used"),
        ("torchvision:resnet18?weights=DEFAULT", "the argument weights is not used"),
        ("timm:vit_tiny_patch16_224?embed_dim=100000", "embed_dim=100000 is larger than 65536"),
        ("timm:vit_tiny_patch16_224?depth=60000", "timm:vit_tiny_patch16_224 cannot be built for 4 classes"),
        (":build", "There is no module ''. --arch"),
    ],
)
def test_networks_that_cannot_be_built(arch: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        network_sources.build(arch, SHAPE)


def test_torchvision_takes_three_channels() -> None:
    with pytest.raises(UserError, match="takes images with 3 channels, these have 1"):
        network_sources.build("torchvision:resnet18", Shape(4, 1, (16, 16)))


def test_only_code_of_the_user_is_no_library() -> None:
    assert network_sources.is_library("timm:resnet18")
    assert not network_sources.is_library("timm")
    assert not network_sources.is_library("timm.py:resnet18")
    assert not network_sources.is_library("os:system")
    assert not network_sources.is_external("wrn-28-10?activation=gelu")
