"""All architecture files: sizes, names, inference from their state dicts, and error messages."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torchvision
from support.known_models import with_batchnorm_statistics
from torch import nn

from robust_eval.core.discovery import module_ids
from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models import architectures
from robust_eval.models.architectures import kaiming_normal
from robust_eval.models.architectures._residual import PaddedShortcut
from robust_eval.models.architectures.dm_wrn import SparseMeans, pad_same
from robust_eval.models.loading import architecture_fit
from robust_eval.models.loading.state_dict_diff import shapes_of

SMALL = {
    "densenet": ({"growth": 4}, 3, 32),
    "digits-cnn": ({"width": 4, "hidden": 8}, 1, 8),
    "dm-preact-resnet": ({"width": 4}, 3, 32),
    "dm-wrn": ({"depth": 10, "width": 1}, 3, 32),
    "lenet": ({"width": 2}, 1, 28),
    "mobilenet-v2": ({}, 3, 32),
    "preact-resnet": ({"width": 4}, 3, 32),
    "resnet": ({"width": 4}, 3, 32),
    "senet": ({"width": 16}, 3, 32),
    "small-cnn": ({"width": 4, "hidden": 8}, 1, 28),
    "vgg": ({"width": 4}, 3, 32),
    "wong-cnn": ({"width": 4, "hidden": 8}, 1, 28),
    "wrn": ({"depth": 10, "width": 1}, 3, 32),
}
FILES = module_ids("robust_eval.models.architectures")


def parameters(arch_id: str, size: int = 32, channels: int = 3, **arguments: object) -> int:
    with torch.device("meta"):
        network = architectures.build(
            arch_id, classes=10, channels=channels, image_size=(size, size), **arguments
        )
    return sum(value.numel() for value in network.parameters())


# Counted from the code of the AWP authors; SmallCNN and LeNet from the code of their papers.
@pytest.mark.parametrize(
    ("arch_id", "count"),
    [
        ("preact-resnet-18", 11_172_170),
        ("resnet-18", 11_173_962),
        ("resnet-20", 272_474),
        ("densenet-121", 1_000_618),
        ("mobilenet-v2", 2_296_922),
        ("senet-18", 11_260_354),
        ("resnet-101", 42_512_970),
        ("preact-resnet-50", 23_513_162),
        ("wrn-34-10", 46_160_474),
        ("wrn-28-10", 36_479_194),
        ("dm-wrn-28-10", 36_479_194),
        ("dm-preact-resnet-18", 12_548_426),
        ("vgg-16", 14_728_266),
        ("vgg-19", 20_040_522),
    ],
)
def test_parameter_counts_are_those_of_the_public_code(arch_id: str, count: int) -> None:
    assert parameters(arch_id) == count


@pytest.mark.parametrize(
    ("arch_id", "arguments"),
    [
        ("wrn", {"blocks": [2, 1, 1], "planes": [16, 40, 24]}),
        ("wrn-10-1", {"activation": "pssilu"}),
        ("dm-wrn", {"stem": 24, "blocks": [2, 1, 1], "planes": [16, 40, 24], "squeeze": 0.25}),
        ("dm-wrn-10-1", {"sparse": True}),
        ("resnet-101", {"width": 4}),
        ("resnet-20", {"shortcut": "pad"}),
        ("resnet-110", {}),
        ("resnet", {"blocks": [1, 2, 1], "bottleneck": True}),
        ("resnet-18", {"width": 4, "stem_kernel": 7}),
        ("resnet-50", {"width": 8, "stem_kernel": 7, "base_width": 128}),
        ("preact-resnet-101", {"width": 4}),
        ("vgg-16", {"width": 4, "norm": False}),
    ],
)
def test_networks_of_other_sizes_and_parts_are_inferred(
    arch_id: str, arguments: dict[str, object], make: Callable[..., nn.Module]
) -> None:
    shapes = shapes_of(make(arch_id, **arguments).state_dict())
    inferred = [found for file in architectures.files().values() if (found := file.infer(shapes))]
    assert [one.architecture for one in inferred] == [Architecture(arch_id, arguments)]


@pytest.mark.parametrize(
    ("name", "arch_id", "arguments"),
    [
        ("resnet18", "resnet-18", {}),
        ("resnet152", "resnet-152", {}),
        ("resnext50_32x4d", "resnet-50", {"groups": 32, "base_width": 4}),
        ("wide_resnet101_2", "resnet-101", {"base_width": 128}),
    ],
)
def test_networks_of_torchvision_by_name(name: str, arch_id: str, arguments: dict[str, object]) -> None:
    with torch.device("meta"):
        state = getattr(torchvision.models, name)(num_classes=3).state_dict()
    found = architecture_fit.fit(state, name).inferred
    assert found.architecture == Architecture(arch_id, {"stem_kernel": 7, **arguments})


@pytest.mark.parametrize("groups", [1, 4])
def test_networks_of_torchvision_have_the_same_logits(groups: int) -> None:
    resnet = torchvision.models.resnet
    theirs = with_batchnorm_statistics(
        resnet.ResNet(resnet.Bottleneck, [1, 1, 2, 1], 3, groups=groups, width_per_group=8)
    )
    found = architecture_fit.fit(theirs.state_dict(), "")
    own = architecture_fit.meta_network_of(found.inferred, None).eval()
    own.load_state_dict(found.state, assign=True)
    x = torch.rand(2, 3, 64, 64)
    assert torch.allclose(own(x), theirs(x), atol=1e-5)


def test_resnext_of_kuangliu() -> None:
    """Three stages, a 1x1 stem, and 8 or more output channels per plane."""
    arguments = {"stem_kernel": 1, "groups": 2, "expansion": 8, "width": 8}
    whole = {"blocks": [2, 2, 2], "bottleneck": True, **arguments}
    network = architectures.build("resnet", classes=3, channels=3, image_size=(32, 32), **whole)
    found = architecture_fit.fit(network.state_dict(), "").inferred
    assert found.architecture == Architecture("resnet", whole)


def test_the_example_of_pytorch_is_a_layout_of_lenet() -> None:
    network = architectures.build("lenet", classes=10, channels=1, image_size=(28, 28), layout="example")
    found = architecture_fit.fit(network.state_dict(), "").inferred
    assert found.architecture == Architecture("lenet", {"layout": "example"})
    assert (found.image_size, found.channels) == ((28, 28), 1)
    with pytest.raises(UserError, match="Unknown layout 'x'"):
        parameters("lenet", layout="x")


def test_shortcuts_without_tensors_add_channels_of_zeros() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    both, end = (PaddedShortcut(1, 3, 2, where)(x) for where in ("pad", "append"))
    assert both.flatten(2).tolist() == [[[0.0] * 4, [0.0, 2.0, 8.0, 10.0], [0.0] * 4]]
    assert torch.equal(end[:, 0], both[:, 1])
    with pytest.raises(UserError, match=re.escape("Unknown shortcut 'none'. Known: append, conv, pad.")):
        parameters("resnet-20", shortcut="none")


def test_sizes_of_stages_have_one_number_per_stage() -> None:
    with pytest.raises(UserError, match=re.escape("blocks=[2, 1] must be 3 positive numbers")):
        parameters("wrn", blocks=[2, 1])
    with pytest.raises(UserError, match=re.escape("blocks=[2, 1] must be three or four positive numbers")):
        parameters("resnet", blocks=[2, 1])


def test_strided_convolutions_of_deepmind_are_padded_below_and_on_the_right() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[..., 0, 0] = 1
    assert pad_same(x, 2)[..., 0, 0] == pad_same(x, 1)[..., 1, 1] == 1
    assert pad_same(x, 2).shape[-1] == 5


def test_mean_sparse_replaces_values_close_to_the_mean() -> None:
    layer = SparseMeans(1)
    x = torch.tensor([0.9, 1.0, 1.3, 3.0]).view(1, 1, 2, 2)
    assert torch.equal(layer(x), x)
    layer.running_mean.fill_(1.0)
    layer.running_var.fill_(4.0)
    layer.threshold.fill_(0.1)
    assert layer(x).flatten().tolist() == pytest.approx([1.0, 1.0, 1.3, 3.0])


def test_the_unused_block_of_trades_has_the_published_parameter_count() -> None:
    assert parameters("wrn-34-10", sub_block=True) - parameters("wrn-34-10") == 2_102_112
    assert parameters("wrn-28-10", sub_block=True) - parameters("wrn-28-10") == 1_640_672


def test_mnist_networks_have_the_published_parameter_counts() -> None:
    assert parameters("small-cnn", 28, 1) == 312_202
    assert parameters("lenet", 28, 1) == 32 * 26 + 64 * (32 * 25 + 1) + 1024 * (64 * 49 + 1) + 10 * 1025
    assert parameters("lenet", 32, 3) == 62_006, "LeNet-5"
    assert parameters("lenet", 28, 1, layout="example") == 21_840
    assert parameters("wong-cnn", 28, 1) == 166_406


@pytest.mark.parametrize("stem", FILES)
def test_a_file_builds_a_network_and_infers_it_from_its_state_dict(stem: str) -> None:
    arguments, channels, side = SMALL.get(stem, ({}, 3, 32))
    file = architectures.files()[stem]
    network = file.build(classes=7, channels=channels, image_size=(side, side), **arguments).eval()
    logits = network(torch.rand(2, channels, side, side))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    inferred = file.infer(shapes_of(network.state_dict()))
    assert inferred is not None
    assert (inferred.classes, inferred.channels) == (7, channels)
    again = architectures.build(
        inferred.architecture.id,
        classes=7,
        channels=channels,
        image_size=inferred.image_size or (side, side),
        **inferred.architecture.arguments,
    )
    assert shapes_of(again.state_dict()) == shapes_of(network.state_dict())
    assert inferred.image_size in (None, (side, side))


@pytest.mark.parametrize("stem", SMALL)
def test_default_arguments_are_not_recorded(stem: str) -> None:
    file = architectures.files()[stem]
    for arch_id in file.IDS:
        with torch.device("meta"):
            network = architectures.build(arch_id, classes=10, channels=3, image_size=(32, 32))
        inferred = file.infer(shapes_of(network.state_dict()))
        assert inferred is not None
        assert (inferred.architecture.id, dict(inferred.architecture.arguments)) == (arch_id, {})


@pytest.mark.parametrize("stem", FILES)
def test_state_dicts_of_other_files_do_not_fit(stem: str) -> None:
    arguments, channels, side = SMALL.get(stem, ({}, 3, 32))
    network = architectures.files()[stem].build(
        classes=10, channels=channels, image_size=(side, side), **arguments
    )
    shapes = shapes_of(network.state_dict())
    assert [other for other, file in architectures.files().items() if file.infer(shapes)] == [stem]


def test_tensor_names_are_those_of_public_checkpoints() -> None:
    def names(arch_id: str, channels: int = 3, side: int = 32, **arguments: object) -> set[str]:
        with torch.device("meta"):
            network = architectures.build(
                arch_id, classes=10, channels=channels, image_size=(side, side), **arguments
            )
        return set(network.state_dict())

    assert {"bn.weight", "linear.weight", "layer2.0.shortcut.0.weight"} <= names("preact-resnet-18")
    assert "layer2.0.shortcut.1.running_var" in names("resnet-18")
    assert not any("layer1.0.shortcut" in name for name in names("resnet-18"))
    assert {"block3.layer.4.conv2.weight", "block1.layer.0.convShortcut.weight", "fc.bias"} <= names(
        "wrn-34-10"
    )
    assert "sub_block1.layer.0.bn1.weight" in names("wrn-34-10", sub_block=True)
    assert {"features.0.bias", "features.41.running_mean", "classifier.weight"} <= names("vgg-16")
    assert {"feature_extractor.conv4.bias", "classifier.fc3.weight"} <= names("small-cnn", 1, 28)
    assert {"conv1.weight", "fc2.bias"} <= names("lenet", 1, 28)


def test_the_unused_block_does_not_affect_the_logits() -> None:
    network = architectures.build(
        "wrn-10-1", classes=4, channels=3, image_size=(32, 32), sub_block=True
    ).eval()
    x = torch.rand(2, 3, 32, 32)
    before = network(x)
    with torch.no_grad():
        for value in network.sub_block1.parameters():
            value.fill_(9.0)
    assert torch.equal(network(x), before)


def test_networks_with_global_pooling_accept_other_sizes() -> None:
    for arch_id, arguments in (
        ("preact-resnet-18", {"width": 4}),
        ("resnet-18", {"width": 4}),
        ("wrn-10-1", {}),
    ):
        network = architectures.build(arch_id, classes=4, channels=1, image_size=(28, 20), **arguments).eval()
        assert network(torch.rand(1, 1, 28, 20)).shape == (1, 4)


@pytest.mark.parametrize("stem", ["resnet", "preact-resnet"])
def test_variants_have_the_same_tensors_and_other_logits(stem: str, make: Callable[..., nn.Module]) -> None:
    plain = make(f"{stem}-18", width=4)
    inferred = architectures.files()[stem].infer(shapes_of(plain.state_dict()))
    assert inferred is not None
    assert inferred.variants
    for arguments in inferred.variants:
        other = make(f"{stem}-18", width=4, **arguments)
        other.load_state_dict(plain.state_dict(), strict=True)
        x = torch.rand(2, 3, 32, 32)
        assert not torch.allclose(plain(x), other(x))


@pytest.mark.parametrize(
    ("arch_id", "side", "message"),
    [
        ("vgg-16", 28, "vgg-16 halves its input five times: it needs images of 32x32 or more, got 28x28."),
        (
            "small-cnn",
            8,
            "small-cnn needs images of at least 16x16, got 8x8. Use digits-cnn for smaller images.",
        ),
        ("lenet", 12, "lenet (cifar layout) needs images of at least 16x16, got 12x12."),
        ("wong-cnn", 3, "wong-cnn needs images of at least 4x4, got 3x3."),
        ("densenet-121", 7, "densenet-121 needs images of at least 8x8, got 7x7."),
        ("wrn-30-10", 32, "wrn-30-10 does not exist: a Wide ResNet's depth is 6n + 4"),
        ("preact-resnet-81", 32, "Unknown architecture 'preact-resnet-81'. Did you mean preact-resnet-18?"),
    ],
)
def test_impossible_networks_give_an_error_message(arch_id: str, side: int, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        architectures.build(arch_id, classes=4, channels=3, image_size=(side, side))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, robust_eval.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_he_initialisation_is_skipped_on_the_meta_device() -> None:
    real = nn.Sequential(nn.Conv2d(3, 8, 3))
    before = real[0].weight.clone()
    kaiming_normal(real, "fan_out")
    assert not torch.equal(real[0].weight, before)
    assert real[0].bias is not None
    assert not real[0].bias.any()
