"""``--arch path.py:function``: user code, with weights whose names must all match."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.loading import checkpoint, network_sources, python_architecture

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes, own):
        super().__init__()
        if own:
            self.register_buffer("mean", torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1))
            self.register_buffer("std", torch.tensor([0.5, 0.5, 0.5]).view(1, 3, 1, 1))
        self.module = nn.Linear(3, classes)

    def forward(self, x):
        if hasattr(self, "mean"):
            x = (x - self.mean) / self.std
        return self.module(x.mean((2, 3)))

def plain(num_classes=4):
    return Net(num_classes, False)

def own(classes, image_size, channels):
    assert (image_size, channels) == ((16, 16), 3)
    return Net(classes, True)

def wide():
    return Net(7, False)

def broken():
    raise ValueError("no such thing")

def nothing():
    return 3
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(CODE)
    return path


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"module.weight": torch.randn(4, 3), "module.bias": torch.zeros(4)}


def test_names_as_stored_are_tried_first(code: Path, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"net": weights(), "epoch": 2}, path)
    loaded = checkpoint.load(str(path), images=images, arch=f"{code}:plain", normalisation="none")
    code_sha256 = hashlib.sha256(code.read_bytes()).hexdigest()
    wanted = Architecture("net.py:plain", {"code_sha256": code_sha256})
    assert loaded.ref.architecture == wanted, "the file name without folders"
    assert loaded.ref.notes == ("input normalisation 'none' as requested",)
    assert loaded.ref.trained_with == {"file_says": {"epoch": 2}}
    assert torch.equal(loaded.network.get_parameter("module.weight"), weights()["module.weight"])


@pytest.mark.parametrize("prefix", ["module.", "model.", "a.b."])
def test_a_wrapper_around_the_weights_is_removed(
    prefix: str, code: Path, images: ImageSet, tmp_path: Path
) -> None:
    path = tmp_path / "c.pt"
    torch.save({prefix + key: value for key, value in weights().items()}, path)
    loaded = checkpoint.load(str(path), images=images, arch=f"{code}:plain", normalisation="none")
    assert torch.equal(loaded.network.get_parameter("module.weight"), weights()["module.weight"])
    assert loaded.ref.notes[0] == f"removed '{prefix}' from the names"


def test_a_normalisation_in_the_code_is_used(code: Path, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    buffers = {name: torch.full((1, 3, 1, 1), 0.5) for name in ("mean", "std")}
    torch.save({**weights(), **buffers}, path)
    loaded = checkpoint.load(str(path), images=images, arch=f"{code}:own", normalisation="none")
    assert loaded.ref.normalisation.name == "none"
    assert torch.equal(loaded.network.get_buffer("mean"), buffers["mean"])


HEAD = """
from torch import nn

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.mean((2, 3)))
"""


def test_a_normalisation_missing_in_the_code_is_read_from_the_file(images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "head.py").write_text(HEAD)
    head = python_architecture.build(f"{tmp_path / 'head.py'}:Head", {}, {})
    parts = {f"normalize.{name}": torch.full((3,), value) for name, value in (("mean", 0.8), ("std", 0.2))}
    torch.save({**{f"model.{key}": v for key, v in head.state_dict().items()}, **parts}, tmp_path / "c.pt")
    with torch.no_grad():
        labels = head((images.tensors()[0] - 0.8) / 0.2).argmax(1).numpy()
    labelled = replace(images, y_N=labels)
    ref = checkpoint.load(str(tmp_path / "c.pt"), images=labelled, arch=f"{tmp_path / 'head.py'}:Head").ref
    assert ref.normalisation.mean == pytest.approx((0.8, 0.8, 0.8))
    assert "as recorded; clean accuracy: " in ref.notes[-1]


def test_a_checkpoint_of_this_project_with_user_code(code: Path, tmp_path: Path) -> None:
    network = python_architecture.build(f"{code}:plain", {}, {})
    path = tmp_path / "c.pt"
    checkpoint.save(
        path,
        network,
        checkpoint.CheckpointDescription(
            architecture=Architecture("net.py:plain"),
            normalisation=Normalisation("2x-1", (0.5,), (0.5,)),
            classes=4,
            channels=3,
            image_size=(16, 16),
        ),
    )
    loaded = checkpoint.load(str(path), images=None, arch=f"{code}:plain")
    assert loaded.ref.normalisation.name == "2x-1"
    assert loaded.ref.format == "robust-eval"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "wide",
            "c.pt does not fit the network of net.py:wide: 0 tensors agree; other shapes (2): module.weight "
            "is 4x3, not 7x3, module.bias is 4, not 7.",
        ),
        ("broken", "net.py:broken failed: ValueError: no such thing. Correct the function."),
        ("nothing", "net.py:nothing returned a int, not a torch.nn.Module."),
        ("plane", "Unknown function in net.py: 'plane'. Did you mean plain?"),
    ],
)
def test_unusable_functions_are_refused(
    function: str, message: str, code: Path, images: ImageSet, tmp_path: Path
) -> None:
    path = tmp_path / "c.pt"
    torch.save(weights(), path)
    with pytest.raises(UserError, match=re.escape(message)):
        checkpoint.load(str(path), images=images, arch=f"{code}:{function}")


def test_unusable_files_are_refused(code: Path, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save(weights(), path)
    with pytest.raises(UserError, match=r"nett\.py does not exist\. --arch takes path\.py:function or an"):
        checkpoint.load(str(path), images=images, arch=f"{code.with_name('nett.py')}:plain")
    code.write_text("def plain(:")
    with pytest.raises(UserError, match=r"net\.py cannot be imported: SyntaxError"):
        checkpoint.load(str(path), images=images, arch=f"{code}:plain")


def test_outputs_must_be_one_per_class(code: Path, images: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"module.weight": torch.zeros(7, 3), "module.bias": torch.zeros(7)}, path)
    with pytest.raises(UserError, match=r"net\.py:wide gives 7 outputs, but quadrants has 4 classes\."):
        checkpoint.load(str(path), images=images, arch=f"{code}:wide")
    with pytest.raises(UserError, match=r"c\.pt does not record what it was trained on: add --data\."):
        checkpoint.load(str(path), images=None, arch=f"{code}:wide")


def test_a_failing_forward_pass_gives_an_error_message() -> None:
    class Fails(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shape mismatch\nsecond line")

    class Image(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    x_1CHW = torch.zeros(1, 1, 8, 8)
    with pytest.raises(
        UserError, match=r"net.py:f fails on a batch of shape \(1, 1, 8, 8\): .*shape mismatch\.$"
    ):
        python_architecture.returning_logits(Fails(), x_1CHW, "net.py:f")
    with pytest.raises(UserError, match=r"must return logits of shape \(N, classes\), not \(1, 1, 8, 8\)"):
        python_architecture.returning_logits(Image(), x_1CHW, "net.py:f")


def test_a_function_gets_the_arguments_that_are_named(images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "sized.py").write_text(
        "from torch import nn\ndef build(classes, width=2):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(768, width), nn.Linear(width, classes))\n"
    )
    network = python_architecture.build(f"{tmp_path / 'sized.py'}:build", {"classes": 4}, {"width": 5})
    torch.save(network.state_dict(), tmp_path / "c.pt")
    arch = f"{tmp_path / 'sized.py'}:build?width=5"
    ref = checkpoint.load(str(tmp_path / "c.pt"), images=images, arch=arch, normalisation="none").ref
    assert ref.architecture.id == "sized.py:build"
    assert ref.architecture.arguments["width"] == 5
    with pytest.raises(UserError, match=r"Unknown argument of sized\.py:build: 'widht'\. Did you mean width"):
        checkpoint.load(str(tmp_path / "c.pt"), images=images, arch=arch.replace("width", "widht"))


@pytest.mark.parametrize(
    ("output", "place"),
    [("Named(logits)", ".logits"), ("{'logits': logits}", "['logits']"), ("(logits, x)", "[0]")],
)
def test_logits_inside_an_output_are_used(output: str, place: str, images: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "out.py").write_text(
        "from collections import namedtuple\nfrom torch import nn\nNamed = namedtuple('Named', 'logits')\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(768, 4)\n    def forward(self, x):\n"
        f"        logits = self.layer(x.flatten(1))\n        return {output}\n"
    )
    torch.save({"layer.weight": torch.eye(4, 768), "layer.bias": torch.zeros(4)}, tmp_path / "c.pt")
    loaded = checkpoint.load(
        str(tmp_path / "c.pt"), images=images, arch=f"{tmp_path / 'out.py'}:Net", normalisation="none"
    )
    x_NCHW = images.tensors()[0]
    assert torch.equal(loaded.model(x_NCHW), x_NCHW.flatten(1)[:, :4])
    assert f"the logits are {place} of the model's output" in loaded.ref.notes


def test_other_code_than_in_training_is_flagged(
    code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arch = f"{code}:plain"
    recorded = network_sources.identity(arch)
    description = checkpoint.CheckpointDescription(
        architecture=recorded,
        normalisation=Normalisation("none"),
        classes=4,
        channels=3,
        image_size=(16, 16),
    )
    path = tmp_path / "c.pt"
    checkpoint.save(path, python_architecture.build(arch, {}, {}), description)
    assert checkpoint.load(str(path), images=None, arch=arch).doubts.raised == ()
    code.write_text(CODE.replace("x.mean((2, 3))", "x.amax((2, 3))"))
    ((flag, figure),) = checkpoint.load(str(path), images=None, arch=arch).doubts.raised
    assert flag == "architecture-uncertain"
    assert figure.startswith("trained with code of sha256 ")
    # Code of a library, which the digest does not cover, has changed.
    monkeypatch.setattr(network_sources, "identity", lambda arch: recorded)
    ((flag, figure),) = checkpoint.load(str(path), images=None, arch=arch).doubts.raised
    assert flag == "architecture-uncertain"
    assert figure.startswith("logits of random images differ from those in the file by ")
