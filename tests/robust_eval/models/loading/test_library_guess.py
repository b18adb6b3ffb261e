"""Files of timm's and torchvision's networks, loaded without ``--arch``."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.known_models import with_batchnorm_statistics
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.models.loading import checkpoint, library_guess, network_sources
from robust_eval.models.loading.network_sources import Shape


def check_loaded(network: nn.Module, tmp_path: Path, images: ImageSet, **beside: object) -> Any:
    """Load its state dict without ``--arch`` and compare the logits."""
    torch.save({"state_dict": network.state_dict(), **beside}, tmp_path / "c.pt")
    loaded = checkpoint.load(str(tmp_path / "c.pt"), images=images, normalisation="none")
    x_NCHW = images.tensors()[0][:4]
    with torch.no_grad():
        assert torch.allclose(loaded.model(x_NCHW), network(x_NCHW), atol=1e-5)
    return loaded


@pytest.mark.parametrize(
    ("arch", "flags"),
    [
        pytest.param("timm:vit_tiny_patch16_224", [], marks=pytest.mark.slow),
        ("timm:vit_tiny_patch16_224?patch_size=4&depth=2", ["architecture-uncertain"]),
        ("timm:deit_tiny_distilled_patch16_224?depth=1", ["architecture-uncertain"]),
        ("timm:xcit_nano_12_p16_224?depth=1&stem_stride=4", ["architecture-uncertain"]),
        ("timm:convnext_atto", []),
        ("torchvision:shufflenet_v2_x0_5", []),
        ("torchvision:mobilenet_v2", []),
    ],
)
def test_networks_by_their_tensors(
    arch: str, flags: list[str], tmp_path: Path, quadrants: Callable[..., ImageSet]
) -> None:
    images = quadrants(40, side=32)
    torch.manual_seed(0)
    network = with_batchnorm_statistics(network_sources.build(arch, Shape(4, 3, (32, 32))))
    loaded = check_loaded(network, tmp_path, images)
    assert loaded.ref.architecture == network_sources.identity(arch)
    found = [flag for flag, _ in loaded.doubts.raised if flag == "architecture-uncertain"]
    assert found == flags
    assert f"{arch} by its tensors" in loaded.ref.notes


@pytest.mark.parametrize(("name", "source"), [("resnet10t", "timm"), ("shufflenet_v2_x0_5", "torchvision")])
def test_networks_that_the_file_names(
    name: str, source: str, tmp_path: Path, quadrants: Callable[..., ImageSet]
) -> None:
    arch = f"{source}:{name}"
    network = with_batchnorm_statistics(network_sources.build(arch, Shape(4, 3, (32, 32))))
    loaded = check_loaded(network, tmp_path, quadrants(40, side=32), arch=name, epoch=3)
    assert loaded.ref.architecture.id == arch
    assert f"{arch} is named in the file (arch)" in loaded.ref.notes


def test_a_wrong_name_in_the_file_is_not_believed(images: ImageSet, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": nn.Sequential(nn.Linear(3, 4)).state_dict(), "arch": "alexnet"}, tmp_path / "c.pt"
    )
    with pytest.raises(UserError, match="fits no known architecture"):
        checkpoint.load(str(tmp_path / "c.pt"), images=images)


def test_a_missing_timm_is_named(
    tmp_path: Path, quadrants: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = network_sources.build("timm:convnext_atto", Shape(4, 3, (32, 32)))
    torch.save(network.state_dict(), tmp_path / "c.pt")

    def missing(*_: object) -> None:
        raise UserError("timm:convnext_atto needs timm, which is not installed")

    monkeypatch.setitem(network_sources.LIBRARIES, "timm", missing)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="timm:convnext_atto needs timm"):
        checkpoint.load(str(tmp_path / "c.pt"), images=quadrants(40, side=32))


@pytest.mark.parametrize(
    ("shapes", "arch"),
    [
        ({"stem.0.weight": (96,), "stages.0.blocks.0.conv_dw.weight": (96,)}, None),
        (
            {
                "patch_embed.proj.weight": (96, 3, 4, 4),
                "layers.0.blocks.0.attn.relative_position_bias_table": (169, 3),
                "layers.2.blocks.5.norm1.weight": (384,),
            },
            "timm:swin_tiny_patch4_window7_224",
        ),
    ],
)
def test_names_by_sizes(shapes: dict[str, tuple[int, ...]], arch: str | None) -> None:
    found = library_guess._convnext(shapes) or library_guess._swin(shapes)
    assert (found and found.arch) == arch


@pytest.mark.parametrize("stride", [3, 32])
def test_strides_of_a_stem_are_powers_of_two(stride: int) -> None:
    with pytest.raises(UserError, match=re.escape(f"stem_stride={stride} must be a power of 2, at most 16.")):
        network_sources.build(f"timm:xcit_nano_12_p16_224?stem_stride={stride}", Shape(4, 3, (32, 32)))
