"""Layouts of public checkpoints: each is loaded exactly, with notes."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture
from robust_eval.models.loading import checkpoint
from robust_eval.models.normalisation import NORMALISATIONS

Make = Callable[..., nn.Module]
State = dict[str, Tensor]
MEAN, STD = NORMALISATIONS["cifar10"].mean, NORMALISATIONS["cifar10"].std


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: value for key, value in state.items()}


def halved(state: Mapping[str, Tensor]) -> State:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def swapped(state: Mapping[str, Tensor], *pairs: tuple[str, str]) -> State:
    out = dict(state)
    for old, new in pairs:
        out = {key.replace(old, new): value for key, value in out.items()}
    return out


def buffers(prefix: str, names: tuple[str, str] = ("mean", "std"), scale: float = 1.0) -> State:
    values = (torch.tensor(part).view(1, 3, 1, 1) * scale for part in (MEAN, STD))
    return {prefix + name: value for name, value in zip(names, values, strict=True)}


def without_counters(state: Mapping[str, Tensor]) -> State:
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def optimiser_state() -> dict[str, Any]:
    """The state of SGD with momentum, as saved by torch.optim."""
    moments = {index: {"momentum_buffer": torch.ones(2, 2)} for index in range(3)}
    return {"state": moments, "param_groups": [{"lr": 0.1, "params": [0, 1, 2]}]}


Layout = Callable[[State], Any]
LAYOUTS: dict[str, Layout] = {
    "plain": lambda s: s,
    "ordered": lambda s: OrderedDict(s),
    "parameters": lambda s: {
        k: nn.Parameter(v) if v.is_floating_point() and "running" not in k else v for k, v in s.items()
    },
    "data parallel": lambda s: prefixed("module.", s),
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "compiled, data parallel": lambda s: prefixed("_orig_mod.module.", s),
    "data parallel, compiled": lambda s: prefixed("module._orig_mod.", s),
    "model.module.": lambda s: prefixed("model.module.", s),
    "module.model.": lambda s: prefixed("module.model.", s),
    "backbone.": lambda s: prefixed("backbone.", s),
    "an unknown prefix": lambda s: prefixed("student.encoder.net.", s),
    "lightning": lambda s: {
        "state_dict": prefixed("model.", s),
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "optimizer_states": [optimiser_state()],
    },
    "net": lambda s: {"net": s, "acc": 93.1, "epoch": 12},
    "numbers beside the weights": lambda s: {
        "best_acc1": torch.tensor(93.0),
        "best_acc5": torch.tensor(99.0),
        "state_dict": s,
    },
    "curves beside the weights": lambda s: {
        "losses": torch.ones(30),
        "accuracies": torch.ones(30),
        "state_dict": s,
    },
    "a copy in a nested dict": lambda s: {**s, "ema": {**s, "n_averaged": torch.tensor(9)}},
    "state_dict": lambda s: {"state_dict": prefixed("module.", s), "optimizer": optimiser_state()},
    "model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": optimiser_state()},
    "model": lambda s: {"model": s, "args": {"lr": 0.1}},
    "ema only": lambda s: {"ema": prefixed("module.", s), "optimizer": optimiser_state()},
    "nested twice": lambda s: {"checkpoint": {"model": prefixed("module.", s)}, "step": 5},
    "an unknown name": lambda s: {"mutated_weights": s, "epoch": 3},
    "in a tuple": lambda s: (s, 12),
    "half precision": halved,
    "bfloat16": lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()},
    "float64": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "no batch counters": without_counters,
    "an averaged model": lambda s: {"n_averaged": torch.tensor(9), **prefixed("module.", s)},
    "counted operations": lambda s: {
        **s,
        "total_ops": torch.zeros(1),
        "block1.total_ops": torch.zeros(1),
        "block1.total_params": torch.zeros(1),
    },
    "with other entries": lambda s: {**s, "epoch": 4, "name": "mine"},
    "everything at once": lambda s: {
        "state_dict": halved(prefixed("module.model._orig_mod.", without_counters(s))),
        "best_acc": np.float64(0.91),
        "optimizer": optimiser_state(),
    },
    "another name for the head": lambda s: swapped(s, ("fc.", "linear.")),
    "a head beside its backbone": lambda s: {
        ("fc" + k.removeprefix("fc") if k.startswith("fc.") else "backbone." + k): v for k, v in s.items()
    },
}


def load(value: Any, path: Path, **options: Any) -> checkpoint.LoadedModel:
    torch.save(value, path)
    return checkpoint.load(str(path), **{"images": None, "normalisation": "none", **options})


def same(loaded: checkpoint.LoadedModel, network: nn.Module, tolerance: float = 0.0) -> bool:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return torch.allclose(loaded.network(x), network(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_loaded(layout: str, make: Make, tmp_path: Path) -> None:
    network = make("wrn-10-1")
    loaded = load(LAYOUTS[layout](network.state_dict()), tmp_path / "c.pt")
    assert loaded.ref.architecture == Architecture("wrn-10-1")
    assert (loaded.ref.name, loaded.ref.format, loaded.ref.classes) == ("c.pt", "foreign", 4)
    rounding = {"half precision": 0.02, "bfloat16": 0.1, "everything at once": 0.02}
    assert same(loaded, network, rounding.get(layout, 0.0))
    for name, value in loaded.model.named_parameters():
        assert value.dtype == torch.float32, name
        assert not value.is_meta, name
    assert not any(module.training for module in loaded.model.modules())


OTHERS: dict[str, tuple[str, dict[str, Any], Layout]] = {
    "TRADES: the unused block": ("wrn-10-1", {"sub_block": True}, lambda s: prefixed("module.", s)),
    "a head without bias": ("wrn-16-2", {"bias": False}, lambda s: s),
    "torchvision's names": (
        "resnet-18",
        {"width": 4},
        lambda s: swapped(s, ("shortcut", "downsample"), ("linear.", "fc.")),
    ),
    "Liu et al.: half width, classifier": (
        "resnet-18",
        {"width": 8},
        lambda s: swapped(s, ("linear.", "classifier.")),
    ),
    "bottlenecks": ("resnet-50", {"width": 4}, lambda s: prefixed("module.", s)),
    "deeper": ("resnet-34", {"width": 4}, lambda s: s),
    "Rice et al.": ("preact-resnet-18", {"width": 4}, lambda s: {"state_dict": prefixed("module.", s)}),
    "kuangliu: no final norm": ("preact-resnet-18", {"width": 4, "final_norm": False}, lambda s: s),
    "preact with other names": (
        "preact-resnet-18",
        {"width": 4},
        lambda s: {re.sub(r"^bn\.", "final_bn.", k).replace("linear.", "fc."): v for k, v in s.items()},
    ),
    "VGG, data parallel on the features": (
        "vgg-16",
        {"width": 4},
        lambda s: swapped(s, ("features.", "features.module.")),
    ),
    "VGG of Liu et al.": (
        "vgg-16",
        {"width": 4, "bias": False},
        lambda s: swapped(s, ("features.", "feature_extractor.")),
    ),
    "VGG with three layers at the end": (
        "vgg-19",
        {"width": 4, "head": (1, 4, 6), "hidden": 16},
        lambda s: s,
    ),
    "VGG with torchvision's end": (
        "vgg-16",
        {"width": 4, "head": (0, 3, 6), "hidden": 16, "pooled": 2},
        lambda s: s,
    ),
    "small-cnn": ("small-cnn", {"width": 4, "hidden": 10}, lambda s: prefixed("model.", s)),
    "lenet": ("lenet", {"width": 2}, lambda s: {"model": s}),
}


@pytest.mark.parametrize("case", OTHERS)
def test_an_architecture_is_inferred_from_names_and_shapes(case: str, make: Make, tmp_path: Path) -> None:
    arch_id, arguments, layout = OTHERS[case]
    network = make(arch_id, **arguments)
    loaded = load(layout(network.state_dict()), tmp_path / "c.pt")
    assert loaded.ref.architecture == Architecture(arch_id, arguments)
    assert same(loaded, network)


@pytest.mark.parametrize("saved", ["zip", "legacy", "safetensors"])
def test_every_container_gives_the_same_weights(saved: str, make: Make, tmp_path: Path) -> None:
    network, path = make("wrn-10-1"), tmp_path / "c.bin"
    if saved == "safetensors":
        save_file(prefixed("module.", network.state_dict()), path)
    else:
        torch.save(network.state_dict(), path, _use_new_zipfile_serialization=saved == "zip")
    loaded = checkpoint.load(str(path), images=None, normalisation="none")
    assert loaded.ref.format == ("safetensors" if saved == "safetensors" else "foreign")
    assert same(loaded, network)


@pytest.mark.parametrize(
    "layout",
    {
        "Sequential(normalise, model)": lambda s: {**buffers("0."), **prefixed("1.", s)},
        "normalize and model": lambda s: {**buffers("normalize."), **prefixed("model.", s)},
        "RobustBench: mu and sigma beside the layers": lambda s: {**buffers("", ("mu", "sigma")), **s},
        "data parallel outside": lambda s: prefixed("module.", {**buffers("0."), **prefixed("1.", s)}),
        "data parallel inside": lambda s: {**buffers("0."), **prefixed("1.module.", s)},
        "flat statistics": lambda s: {"mean": torch.tensor(MEAN), "std": torch.tensor(STD), **s},
        "statistics of 0..255": lambda s: {**buffers("n.", scale=255.0), **prefixed("model.", s)},
        "half precision": lambda s: halved({**buffers("n."), **prefixed("model.", s)}),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_normalisation_in_the_state_dict_is_used(
    layout: tuple[str, Layout], make: Make, tmp_path: Path
) -> None:
    network = make("wrn-10-1")
    loaded = load(layout[1](network.state_dict()), tmp_path / "c.pt", normalisation=None)
    found = loaded.ref.normalisation
    assert found.name == "recorded"
    assert found.mean == pytest.approx(MEAN, abs=3e-4)
    assert found.std == pytest.approx(STD, abs=3e-4)
    assert any("input normalisation read from" in note for note in loaded.ref.notes)
    assert same(loaded, network, 0.02 if layout[0] == "half precision" else 0.0)


def test_identical_copies_of_a_network_count_once(make: Make, tmp_path: Path) -> None:
    """The layout of the library "robustness", whose attacker contains the model again."""
    network = make("wrn-10-1")
    state = network.state_dict()
    value = {**prefixed("model.", state), **prefixed("attacker.model.", state)}
    value |= {**buffers("normalizer.", ("new_mean", "new_std"))}
    value |= {**buffers("attacker.normalize.", ("new_mean", "new_std"))}
    loaded = load({"model": prefixed("module.", value)}, tmp_path / "c.pt", normalisation=None)
    assert same(loaded, network)
    assert loaded.ref.normalisation.mean == pytest.approx(MEAN, abs=1e-5)


def test_notes_and_facts_of_the_file_are_recorded(make: Make, tmp_path: Path) -> None:
    state = swapped(make("wrn-10-1").state_dict(), ("fc.", "linear."))
    value = {
        "net": halved(prefixed("module.backbone.", state)),
        "acc": np.float64(0.5),
        "epoch": 7,
        "lr": float("nan"),
        "data": "some/folder",
        "host": "x" * 100,
    }
    ref = load(value, tmp_path / "c.pt").ref
    assert ref.trained_with == {"file_says": {"acc": 0.5, "epoch": 7}}, "no paths, only JSON values"
    assert ref.notes == (
        "weights found under 'net'",
        "converted 39 float16 tensors to float32",
        "removed 'module.' from the names",
        "removed 'backbone.' from the names",
        "renamed 2 tensors (linear.weight to fc.weight)",
        "input normalisation 'none' as requested",
    )


def test_of_several_state_dicts_the_plain_one_is_used_and_any_can_be_chosen(
    make: Make, tmp_path: Path
) -> None:
    one, two = make("wrn-10-1"), make("wrn-10-1")
    with torch.no_grad():
        two.get_parameter("fc.weight").add_(1.0)
    path = tmp_path / "c.pt"
    value = {"ema_state_dict": two.state_dict(), "state_dict": one.state_dict()}
    loaded = load(value, path)
    assert same(loaded, one)
    assert "the file also contains ema_state_dict: choose with '#', c.pt#NAME" in loaded.ref.notes
    chosen = checkpoint.load(f"{path}#ema_state_dict", images=None, normalisation="none")
    assert same(chosen, two)
    assert chosen.ref.name == "c.pt#ema_state_dict"
    with pytest.raises(
        UserError, match=r"Unknown part of c\.pt: 'ema_state'\. Did you mean ema_state_dict\?"
    ):
        checkpoint.load(f"{path}#ema_state", images=None, normalisation="none")


def test_of_several_prefixes_the_plain_one_is_used_and_any_can_be_chosen(make: Make, tmp_path: Path) -> None:
    one, two = make("wrn-10-1"), make("wrn-10-1")
    with torch.no_grad():
        two.get_parameter("fc.weight").add_(1.0)
    path = tmp_path / "c.pt"
    value = {**prefixed("teacher.", two.state_dict()), **prefixed("model.", one.state_dict())}
    loaded = load(value, path)
    assert same(loaded, one)
    assert any(note.startswith("the file also contains teacher") for note in loaded.ref.notes)
    assert same(checkpoint.load(f"{path}#teacher", images=None, normalisation="none"), two)


def test_the_closest_network_is_found_by_shapes_under_other_names(make: Make, tmp_path: Path) -> None:
    state = make("preact-resnet-18").state_dict()
    with pytest.raises(UserError) as raised:
        load({f"part{i}.weight": value for i, value in enumerate(state.values())}, tmp_path / "c.pt")
    assert re.match(
        r"c\.pt fits no known architecture\. preact-resnet-18 is the closest: 9\d% of the shapes agree, "
        r"under other names\. The file has 20 convolutions \(1x1, 3x3\), 1 linear layers, \d+ normalisation "
        r"layers; names: part0\.weight, part\d+\.weight, part\d+\.weight and \d+ more\. Name the arch",
        str(raised.value),
    )


@pytest.mark.parametrize("inside", [False, True])
def test_parameters_and_buffers_side_by_side_are_one_network(
    inside: bool, make: Make, tmp_path: Path
) -> None:
    network = make("wrn-10-1")
    parts: dict[str, Any] = {
        "params": {name: p.detach() for name, p in network.named_parameters()},
        "buffers": dict(network.named_buffers()),
    }
    torch.save({"model": parts, "epoch": 3} if inside else parts, tmp_path / "c.pt")
    loaded = checkpoint.load(str(tmp_path / "c.pt"), images=None, normalisation="none")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.network(x), network.eval()(x))


def test_several_state_dicts_without_a_usual_name_are_refused(make: Make, tmp_path: Path) -> None:
    state = make("wrn-10-1").state_dict()
    other = {key: value + 1 for key, value in state.items()}
    with pytest.raises(
        UserError, match=r"c\.pt contains several sets of weights: best, last\. Choose one: c\.pt#best"
    ):
        load({"best": state, "last": other}, tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"c\.pt contains several networks: a, b\. Choose one: c\.pt#a"):
        load({**prefixed("a.", state), **prefixed("b.", other)}, tmp_path / "c.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "fc.bias"} | {"fc.bais": s["fc.bias"]},
            "no known architecture. wrn-10-1 is the closest: 38 tensors agree; not expected (1): fc.bais.",
        ),
        (
            lambda s: {k: v for k, v in s.items() if k != "block2.layer.0.bn2.weight"},
            "wrn-10-1 is the closest: 38 tensors agree; missing (1): block2.layer.0.bn2.weight. Name the "
            "architecture with --arch (also timm:NAME or torchvision:NAME), or give its code with --arch ",
        ),
        (
            lambda s: {**s, "conv1.weight": torch.zeros(16, 3, 7, 7)},
            "other shapes (1): conv1.weight is 16x3x7x7, not 16x3x3x3",
        ),
        (
            lambda s: {**s, "criterion.weight": torch.zeros(4)},
            "not expected (1): criterion.weight",
        ),
        (
            lambda s: {**prefixed("model.", s), "criterion.weight": torch.zeros(4)},
            "c.pt has more tensors than wrn-10-1 under 'model.': criterion.weight. To ignore them, "
            "name the part to use: c.pt#model.",
        ),
        (
            lambda s: {"tower.weight": torch.zeros(3), "x": torch.zeros(2)},
            "c.pt fits no known architecture. None has similar tensors. The file has 1 normalisation layers; "
            "names: tower.weight, x. Name the architecture with --arch (also timm:NAME",
        ),
        (lambda s: {**s, "block1.layer.0.bn1.bias": torch.full((16,), float("inf"))}, "are infinite."),
        (
            lambda s: {**s, "fc.bias": torch.full((4,), float("nan"))},
            "c.pt: 4 of 4 values of 'fc.bias' are NaN.",
        ),
        (lambda s: torch.zeros(3), "c.pt contains a single tensor, not the weights of a model."),
        (
            lambda s: {"epoch": 3, "optimizer": optimiser_state()},
            "c.pt contains no weights: no named tensors",
        ),
        (
            lambda s: {**s, "fc.bias": s["fc.bias"].cfloat()},
            "c.pt: 'fc.bias' is a sparse, quantised or complex tensor. Save it as float32.",
        ),
    ],
)
def test_weights_that_do_not_match_are_refused(
    change: Layout, message: str, make: Make, tmp_path: Path
) -> None:
    state = make("wrn-10-1").state_dict()
    with pytest.raises(UserError, match=re.escape(message)):
        load(change(state), tmp_path / "c.pt")


def test_a_requested_architecture_must_fit(make: Make, tmp_path: Path) -> None:
    state = make("wrn-10-1").state_dict()
    assert same(load(state, tmp_path / "c.pt", arch="wrn-10-1"), make("wrn-10-1"))
    with pytest.raises(UserError, match=r"c\.pt is not resnet-18: \d+ tensors agree; missing"):
        load(state, tmp_path / "c.pt", arch="resnet-18")
    with pytest.raises(UserError, match=r"Unknown architecture 'wrn-3410'\. Did you mean wrn-34-10\?"):
        load(state, tmp_path / "c.pt", arch="wrn-3410")


def test_tensors_saved_from_a_gpu_are_loaded_to_the_cpu(make: Make, tmp_path: Path) -> None:
    """The storage tags are replaced by those of a GPU."""
    network, path = make("wrn-10-1"), tmp_path / "c.pt"
    original = torch.serialization.location_tag
    torch.serialization.location_tag = lambda _: "cuda:0"
    try:
        torch.save(network.state_dict(), path)
    finally:
        torch.serialization.location_tag = original
    assert same(checkpoint.load(str(path), images=None, normalisation="none"), network)
