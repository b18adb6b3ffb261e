"""The checkpoint format of this project: saving, loading, and error messages for damaged files."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from robust_eval import data
from robust_eval.core.errors import UserError
from robust_eval.core.threat import ThreatModel
from robust_eval.core.types import Architecture
from robust_eval.data import ImageSet
from robust_eval.models.loading import checkpoint, file_reader
from robust_eval.models.normalisation import NORMALISATIONS

RECIPE = {"objective": "at", "epochs": 3}
METRICS = {"clean": 0.9, "pgd-10": [0.1, 0.2]}


@pytest.fixture
def network(make: Callable[..., nn.Module]) -> nn.Module:
    return make("wrn-10-1", sub_block=True)


def save(path: Path, network: nn.Module, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "architecture": Architecture("wrn-10-1", {"sub_block": True}),
        "normalisation": NORMALISATIONS["cifar10"],
        "classes": 4,
        "channels": 3,
        "image_size": (32, 32),
        "dataset": "cifar10",
        "threat": ThreatModel("Linf", Fraction(8, 255)),
        "recipe": RECIPE,
        "metrics": METRICS,
    }
    checkpoint.save(path, network, checkpoint.CheckpointDescription(**{**fields, **changes}))
    return path


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_a_saved_checkpoint_is_loaded_unchanged(
    suffix: str, network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / f"m.{suffix}", network)
    # Also if this torch did not read pickles of other programs.
    monkeypatch.setattr(file_reader, "SAFE_TORCH", "1000.0")
    loaded = checkpoint.load(str(path), images=None)
    ref = loaded.ref
    assert ref.name == f"m.{suffix}"
    assert ref.format == ("robust-eval" if suffix == "pt" else "safetensors")
    assert ref.architecture == Architecture("wrn-10-1", {"sub_block": True})
    assert ref.normalisation == NORMALISATIONS["cifar10"]
    assert (ref.classes, ref.dataset) == (4, "cifar10")
    assert ref.trained_with == {
        "recipe": RECIPE,
        "metrics": METRICS,
        "threat": {"norm": "Linf", "eps": "8/255"},
    }
    assert list(tmp_path.iterdir()) == [path], "no temporary file remains"
    x = torch.rand(3, 3, 32, 32)
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1) for values in (ref.normalisation.mean, ref.normalisation.std)
    )
    with torch.no_grad():
        assert torch.equal(loaded.model(x), network((x - mean) / std))
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.model.state_dict().keys() == {f"network.{key}" for key in network.state_dict()}
    assert set(loaded.network.state_dict()) == set(network.state_dict())


def test_a_network_that_answers_otherwise_is_flagged(network: nn.Module, tmp_path: Path) -> None:
    network.train()
    path = save(tmp_path / "m.pt", network)
    assert network.training, "saving does not change the network"
    answers = torch.load(path, weights_only=True)["answers"]
    assert torch.tensor(answers).shape == (4, 4)
    assert checkpoint.load(str(path), images=None).doubts.raised == ()
    damage(path, answers=[[2 * logit for logit in row] for row in answers])
    ((flag, figure),) = checkpoint.load(str(path), images=None).doubts.raised
    assert flag == "architecture-uncertain"
    assert "logits of random images differ" in figure
    damage(path, answers=None)
    assert checkpoint.load(str(path), images=None).doubts.raised == ()


def test_images_of_an_unbounded_size_are_not_made(network: nn.Module, tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", network)
    damage(path, image_size=(2**20, 2**20))
    with contextlib.suppress(UserError):
        assert checkpoint.load(str(path), images=None).doubts.raised


def test_an_existing_file_is_replaced_atomically(
    network: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "m.pt", network)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        save(path, network, dataset="svhn")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_folder_is_an_error(network: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"Cannot write to .*file"):
        save(tmp_path / "file" / "m.pt", network)


def damage(path: Path, **changes: Any) -> None:
    value = torch.load(path, weights_only=True)
    torch.save({key: entry for key, entry in {**value, **changes}.items() if entry is not ...}, path)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def circular() -> dict[str, Any]:
    """A dict that contains itself 400 times."""
    value: dict[str, Any] = {}
    value |= {f"k{number}": value for number in range(400)}
    return value


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "m.pt has checkpoint format 2; this robust-eval reads up to 1. Upgrade"),
        ({"classes": ...}, "m.pt has a damaged description (classes: Field required). Save it again."),
        ({"surprise": 1}, "m.pt has a damaged description (surprise: Extra inputs are not permitted)."),
        ({"threat": {"norm": "Linf", "eps": "8/0"}}, "m.pt: epsilon '8/0' divides by zero."),
        ({"threat": {"norm": "Linf", "eps": "1e-999999999"}}, "m.pt: epsilon '1e-999999999' has too many"),
        ({"metrics": {"loss": float("inf")}}, "The description in m.pt contains infinity or NaN"),
        ({"metrics": {1: 2}}, "The description in m.pt has a key that is not text (int). Save it again."),
        ({"metrics": {"a": torch.ones(1)}}, "The description in m.pt contains a value of type Tensor"),
        ({"dataset": "\ud800"}, "The description in m.pt contains half of a surrogate pair"),
        ({"recipe": {"a": 2**70}}, "The description in m.pt contains a whole number of more than 64 bits"),
        ({"recipe": nested(300)}, "m.pt is nested more than 64 levels deep (or contains itself)."),
        ({"recipe": circular()}, "m.pt is nested more than 64 levels deep (or contains itself)."),
        (
            {"architecture": {"id": "wrn-16-1", "arguments": {}}},
            "m.pt does not match its architecture wrn-16-1: 39 tensors agree; missing (30)",
        ),
        ({"architecture": {"id": "wrm-10-1", "arguments": {}}}, "Unknown architecture 'wrm-10-1'."),
        (
            {"architecture": {"id": "wrn-10-1", "arguments": {"dept": 3}}},
            "m.pt describes wrn-10-1, which cannot be built:",
        ),
        (
            {"architecture": {"id": "vgg-16", "arguments": {"width": -3}}},
            "m.pt describes vgg-16, which cannot be built:",
        ),
        (
            {"architecture": {"id": "net.py:mine", "arguments": {}}},
            "m.pt contains a user-defined network. Give its code: --arch net.py:mine.",
        ),
        (
            {"architecture": {"id": "wrn-60000004-1", "arguments": {}}},
            "m.pt describes wrn-60000004-1, which cannot be built: it has more than 2,500 layers.",
        ),
        (
            {"architecture": {"id": "ensemble", "arguments": {"members": 10**9, "of": "lenet"}}},
            "m.pt describes ensemble, which cannot be built: it has more than 2,500 layers.",
        ),
        (
            {"architecture": {"id": "wrn-10-1", "arguments": {"width": 10**18}}},
            "m.pt describes wrn-10-1, which cannot be built:",
        ),
        (
            {"normalisation": {"name": "odd", "mean": [0.5], "std": [0.0]}},
            "m.pt: Normalisation odd divides by 0.",
        ),
    ],
)
def test_a_damaged_description_is_refused(
    changes: dict[str, Any], message: str, network: nn.Module, tmp_path: Path
) -> None:
    path = save(tmp_path / "m.pt", network)
    damage(path, **changes)
    with pytest.raises(UserError, match=re.escape(message)):
        checkpoint.load(str(path), images=None)


def test_one_changed_byte_of_the_weights_is_detected(network: nn.Module, tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", network)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"m\.pt is damaged: the checksum of .* is wrong\. Copy it again\."):
        checkpoint.load(str(path), images=None)


def test_a_damaged_safetensors_description_is_refused(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(safetensors.torch.save({"a": torch.ones(1)}, metadata={"robust_eval": "{"}))
    with pytest.raises(UserError, match="The description in m.safetensors is not readable as JSON"):
        checkpoint.load(str(path), images=None)
    path.write_bytes(safetensors.torch.save({"a": torch.ones(1)}, metadata={"robust_eval": json.dumps([1])}))
    with pytest.raises(UserError, match="has a damaged description"):
        checkpoint.load(str(path), images=None)


def test_weights_with_nan_are_refused(network: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        network.get_parameter("fc.weight")[1, 2] = float("nan")
    path = save(tmp_path / "m.pt", network)
    with pytest.raises(
        UserError, match=r"m\.pt: 1 of 256 values of 'fc\.weight' are NaN\. The training diverged"
    ):
        checkpoint.load(str(path), images=None)


def test_weights_as_whole_numbers_are_refused(network: nn.Module, tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", network)
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {key: value.long() for key, value in content["state_dict"].items()}
    torch.save(content, path)
    message = r"m\.pt: '.*weight' holds int64 numbers, the network has float32\."
    with pytest.raises(UserError, match=message):
        checkpoint.load(str(path), images=None)


def test_a_file_of_one_network_has_no_parts(network: nn.Module, tmp_path: Path) -> None:
    save(tmp_path / "m.pt", network)
    with pytest.raises(UserError, match="m.pt contains one network: omit '#ema'"):
        checkpoint.load(f"{tmp_path / 'm.pt'}#ema", images=None)


def test_options_that_contradict_the_file_are_refused(network: nn.Module, tmp_path: Path) -> None:
    path = str(save(tmp_path / "m.pt", network))
    with pytest.raises(UserError, match=r"m\.pt is a wrn-10-1, not a resnet-18\. Omit --arch\."):
        checkpoint.load(path, images=None, arch="resnet-18")
    loaded = checkpoint.load(path, images=None, normalisation="none", arch="wrn-10-1")
    assert loaded.ref.normalisation.name == "none"
    assert loaded.ref.notes == ("input normalisation 'none' as requested; the file records 'cifar10'",)


def test_images_that_do_not_fit_are_refused(
    network: nn.Module, make: Callable[..., nn.Module], quadrants: Callable[..., ImageSet], tmp_path: Path
) -> None:
    path = str(save(tmp_path / "m.pt", network, classes=4))
    with pytest.raises(
        UserError, match=r"m\.pt takes images with 3 channels, but those of quadrants have 1\."
    ):
        checkpoint.load(path, images=quadrants(8, channels=1))
    flat = make("small-cnn", width=2)
    path = str(
        save(
            tmp_path / "s.pt",
            flat,
            architecture=Architecture("small-cnn", {"width": 2}),
        )
    )
    with pytest.raises(UserError, match=r"s\.pt takes 32x32 images, but those of quadrants are 24x24\."):
        checkpoint.load(path, images=quadrants(8, side=24))


def test_images_without_the_last_classes_are_accepted(network: nn.Module, tmp_path: Path) -> None:
    path = str(save(tmp_path / "m.pt", network, classes=4))
    archive = tmp_path / "slice.npz"
    pixels = np.zeros((3, 32, 32, 3), np.uint8)
    np.savez(archive, x=pixels, y=[0, 1, 0])
    assert checkpoint.load(path, images=data.load(f"npz:{archive}")).ref.classes == 4
    np.savez(archive, x=pixels, y=[0, 1, 0], class_names=["cat", "dog"])
    with pytest.raises(UserError, match=r"m\.pt has 4 classes, but npz:slice\.npz has 2\."):
        checkpoint.load(path, images=data.load(f"npz:{archive}"))
    np.savez(archive, x=pixels, y=[0, 4, 0])
    with pytest.raises(
        UserError,
        match=r"m\.pt has 4 classes, but npz:slice\.npz has the label 4\. Number .* 0 to 3",
    ):
        checkpoint.load(path, images=data.load(f"npz:{archive}"))
