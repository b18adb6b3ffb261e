"""The RobustBench zoo: names, failed downloads, and side effects."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import ssl
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet
from robust_eval.models import robustbench_package
from robust_eval.models.loading import checkpoint, file_reader


class Dataset(Enum):
    CIFAR = "cifar10"


class Threat(Enum):
    LINF = "Linf"
    L2 = "L2"


MODELS = {
    Dataset.CIFAR: {Threat.LINF: {"Rice2020Overfitting": {}, "Standard": {}}, Threat.L2: {"Standard": {}}}
}


@pytest.fixture
def images(quadrants: Callable[..., ImageSet]) -> ImageSet:
    few = quadrants(8, side=32)
    return ImageSet("cifar10", "test", few.x_NHWC, few.y_N, tuple("0123456789"))


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Callable[..., nn.Module]], None]:
    """Replace ``load_model`` of the zoo: importing the real one takes seconds."""
    monkeypatch.setenv("ROBUST_EVAL_CACHE", str(tmp_path))

    def use(load_model: Callable[..., nn.Module]) -> None:
        modules = {
            "model_zoo": SimpleNamespace(model_dicts=MODELS),
            "utils": SimpleNamespace(load_model=load_model),
        }
        monkeypatch.setattr(robustbench_package, "module", modules.__getitem__)

    return use


def test_a_model_is_loaded_and_named(pretend: Callable[..., None], images: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "robustbench" / "cifar10" / "L2" / "Standard.pt"

    def load_model(model_id: str, folder: str, dataset: str, threat: str) -> nn.Module:
        assert (model_id, folder, dataset, threat) == (
            "Standard",
            str(tmp_path / "robustbench"),
            "cifar10",
            "L2",
        )
        file.parent.mkdir(parents=True)
        file.write_bytes(b"weights")
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)).train()

    pretend(load_model)
    loaded = checkpoint.load("robustbench:Standard@l2", images=images)
    ref = loaded.ref
    assert (ref.name, ref.format, ref.dataset, ref.classes) == (
        "robustbench:Standard@L2",
        "robustbench",
        "cifar10",
        10,
    )
    assert ref.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert ref.normalisation.name == "none"
    assert not any(module.training for module in loaded.model.modules())
    assert loaded.model(images.tensors()[0]).shape == (8, 10)


def test_unknown_names_get_a_suggestion(pretend: Callable[..., None], images: ImageSet) -> None:
    pretend(lambda *_: nn.Identity())
    with pytest.raises(
        UserError,
        match=r"Unknown robustbench cifar10 Linf model .*\. Did you mean Rice2020Overfitting\?",
    ):
        checkpoint.load("robustbench:Rice2020Overfit", images=images)
    with pytest.raises(
        UserError, match=r"Unknown robustbench cifar10 threat model 'L3'\. Did you mean|Known: L2, Linf"
    ):
        checkpoint.load("robustbench:Standard@L3", images=images)
    with pytest.raises(UserError, match=r"has its own architecture and normalisation\. Omit --arch"):
        checkpoint.load("robustbench:Standard", images=images, arch="resnet-18")


def test_other_data_are_refused(pretend: Callable[..., None], quadrants: Callable[..., ImageSet]) -> None:
    pretend(lambda *_: nn.Identity())
    with pytest.raises(UserError, match=r"are for cifar10, cifar100 and imagenet, not for quadrants\."):
        checkpoint.load("robustbench:Standard", images=quadrants(8))


def test_old_versions_of_torch_do_not_read_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "SAFE_TORCH", "2.10")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.6.0"))
    with pytest.raises(UserError, match=r"^robustbench:Standard is a pickle .* torch 2\.10 or newer"):
        checkpoint.load("robustbench:Standard", images=None)


def test_a_failed_download_gives_an_error_message(pretend: Callable[..., None], images: ImageSet) -> None:
    def load_model(*_: Any) -> nn.Module:
        raise ConnectionError("Max retries exceeded with url")

    pretend(load_model)
    with pytest.raises(
        UserError,
        match=r"robustbench:Standard cannot be downloaded \(no connection to the file host\)\. Check the "
        r"network, or put the file at .*Standard\.pt\.",
    ):
        checkpoint.load("robustbench:Standard", images=images)


def test_a_web_page_instead_of_the_file_is_recognised(
    pretend: Callable[..., None], images: ImageSet, tmp_path: Path
) -> None:
    file = tmp_path / "robustbench" / "cifar10" / "Linf" / "Standard.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"<!DOCTYPE html>too many downloads")

    def load_model(*_: Any) -> nn.Module:
        raise ValueError("invalid load key")

    pretend(load_model)
    with pytest.raises(UserError, match=r"Standard\.pt is a web page, not a checkpoint"):
        checkpoint.load("robustbench:Standard", images=images)
    torch.save({"a": torch.ones(1)}, file)
    with pytest.raises(
        UserError, match=r"cannot be loaded \(ValueError: invalid load key\)\. Delete .*Standard\.pt"
    ):
        checkpoint.load("robustbench:Standard", images=images)


def test_side_effects_on_the_process_are_undone(
    pretend: Callable[..., None], images: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    context = ssl._create_default_https_context
    installed = importlib.util.find_spec("autoattack") is not None
    seen: dict[str, Any] = {}

    def load_model(*_: Any) -> nn.Module:
        seen["forced"] = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
        import autoattack.state

        seen["alias"] = autoattack.state.__name__
        monkeypatch.setattr(ssl, "_create_default_https_context", ssl._create_unverified_context)
        raise ConnectionError

    pretend(load_model)
    with pytest.raises(UserError, match="cannot be downloaded"):
        checkpoint.load("robustbench:Standard", images=images)
    assert seen["forced"] is None, "robustbench leaves weights_only unset"
    assert seen["alias"] == ("autoattack.state" if installed else "pyautoattack.state")
    assert ssl._create_default_https_context is context
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert installed or "autoattack" not in sys.modules, "imports of the git package must not find the alias"


@pytest.mark.slow
def test_the_real_zoo_is_imported(images: ImageSet) -> None:
    with pytest.raises(UserError, match=r"Did you mean Carmon2019Unlabeled\?"):
        checkpoint.load("robustbench:Carmon2019Unlabelled", images=images)


@pytest.mark.slow
@pytest.mark.parametrize("arch_id", ["resnet-18", "preact-resnet-18", "wrn-10-2"])
def test_architectures_equal_those_of_the_zoo(arch_id: str) -> None:
    """The networks of RobustBench load the weights of this project and give the same logits."""
    from robust_eval.models import architectures

    with robustbench_package.in_use():
        resnet = robustbench_package.module("model_zoo.architectures.resnet")
        wide_resnet = robustbench_package.module("model_zoo.architectures.wide_resnet")

    theirs = {
        "resnet-18": lambda: resnet.ResNet18(),
        "preact-resnet-18": lambda: resnet.PreActResNet(resnet.PreActBlockV2, [2] * 4, bn_before_fc=True),
        "wrn-10-2": lambda: wide_resnet.WideResNet(10, widen_factor=2),
    }[arch_id]()
    torch.manual_seed(0)
    ours = architectures.build(arch_id, classes=10, channels=3, image_size=(32, 32))
    x = torch.rand(4, 3, 32, 32)
    ours.train()(x)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)
