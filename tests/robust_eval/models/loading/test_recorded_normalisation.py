"""The normalisation that a file records outside the named part, and values that are no weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.models.loading import checkpoint
from robust_eval.models.loading.recorded_normalisation import among, around, flattened, pairs

State = dict[str, Tensor]
Make = Callable[..., nn.Module]
MEAN, STD = (0.3, 0.31, 0.32), (0.9, 0.91, 0.92)


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> State:
    return {prefix + key: value for key, value in state.items()}


def buffers(prefix: str, mean: str = "mean", std: str = "std", scale: float = 1.0) -> State:
    one, two = (torch.tensor(values).view(1, 3, 1, 1) * scale for values in (MEAN, STD))
    return {prefix + mean: one, prefix + std: two}


def mair(state: State) -> State:
    """The layout of MAIR: counts beside ``Sequential(normalise, network)``."""
    counts = {"n_classes": torch.tensor(4), "eps": torch.tensor(0.03)}
    return {**counts, **buffers("model.0."), **prefixed("model.1.", state)}


def load(value: Any, path: Path, part: str | None, **options: Any) -> checkpoint.LoadedModel:
    torch.save(value, path)
    source = str(path) if part is None else f"{path}#{part}"
    return checkpoint.load(source, **{"images": None, **options})


PARTS: dict[str, tuple[Callable[[State], Any], str | None]] = {
    "MAIR": (lambda s: {"rmodel": mair(s)}, None),
    "MAIR, the network": (lambda s: {"rmodel": mair(s)}, "model.1"),
    "MAIR, the network with its path": (lambda s: {"rmodel": mair(s)}, "rmodel.model.1"),
    "MAIR, the dict": (lambda s: {"rmodel": mair(s), "epoch": 3}, "rmodel"),
    "MAIR, flat": (mair, "model.1"),
    "MAIR, data parallel": (lambda s: {"rmodel": prefixed("module.", mair(s))}, "model.1"),
    "MAIR, data parallel, as stored": (lambda s: {"rmodel": prefixed("module.", mair(s))}, "module.model.1"),
    "MAIR, data parallel inside": (
        lambda s: {"rmodel": {**buffers("model.0."), **prefixed("model.1.module.", s)}},
        "model.1",
    ),
    "MAIR with an optimiser": (
        lambda s: {"rmodel": mair(s), "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}}},
        "model.1",
    ),
    "an entry beside the dict": (lambda s: {"state_dict": s, "normalize": buffers("")}, None),
    "an entry beside an unknown name": (lambda s: {"rmodel": s, "normalizer": buffers("")}, None),
    "tensors beside the dict": (lambda s: {"state_dict": s, **buffers("")}, None),
    "flat tensors beside the dict": (
        lambda s: {"state_dict": s, "mean": torch.tensor(MEAN), "std": torch.tensor(STD)},
        "state_dict",
    ),
    "lists beside the dict": (lambda s: {"state_dict": s, "mean": list(MEAN), "std": list(STD)}, None),
    "tuples in the arguments": (
        lambda s: {"net": s, "args": {"lr": 0.1, "betas": [0.9, 0.99], "img_mean": MEAN, "img_std": STD}},
        None,
    ),
    "mean and sigma beside the layers of two networks": (
        lambda s: {**buffers("", "mu", "sigma"), **prefixed("ema.", s), **prefixed("net.", s)},
        "ema",
    ),
    "statistics of 0..255 two levels above": (
        lambda s: {**buffers("wrap.", scale=255.0), **prefixed("wrap.inner.net.", s)},
        "wrap.inner.net",
    ),
    "one of two, each with its own": (
        lambda s: {
            **{key: value + 1 for key, value in buffers("teacher.0.").items()},
            **prefixed("teacher.1.", s),
            **buffers("student.0."),
            **prefixed("student.1.", s),
        },
        "student.1",
    ),
    "upper case": (lambda s: {"state_dict": s, "MEAN": list(MEAN), "STD": list(STD)}, None),
    "in half precision": (
        lambda s: {"rmodel": {**{k: v.half() for k, v in buffers("0.").items()}, **prefixed("1.", s)}},
        "1",
    ),
}


@pytest.mark.parametrize("case", PARTS)
def test_the_normalisation_around_a_part_is_kept_and_reported(case: str, make: Make, tmp_path: Path) -> None:
    layout, part = PARTS[case]
    loaded = load(layout(make("wrn-10-1").state_dict()), tmp_path / "c.pt", part)
    found = loaded.ref.normalisation
    assert found.name == "recorded"
    assert found.mean == pytest.approx(MEAN, abs=1e-3)
    assert found.std == pytest.approx(STD, abs=1e-3)
    assert any("input normalisation read from" in note for note in loaded.ref.notes)


def test_the_message_about_further_tensors_can_be_followed(make: Make, tmp_path: Path) -> None:
    value = {"rmodel": {**mair(make("wrn-10-1").state_dict()), "criterion.weight": torch.ones(4)}}
    with pytest.raises(UserError, match=r"criterion\.weight.*name the part to use: c\.pt#model\.1\."):
        load(value, tmp_path / "c.pt", None)
    ref = load(value, tmp_path / "c.pt", "model.1").ref
    assert ref.normalisation.mean == MEAN
    assert "input normalisation read from rmodel.model.0.mean, rmodel.model.0.std" in ref.notes


@pytest.mark.parametrize(
    ("layout", "part"),
    [
        # The statistics of another network, of features, of an accuracy.
        (lambda s: {**buffers("a.0."), **prefixed("a.1.", s), **prefixed("b.", s)}, "b"),
        (lambda s: {"state_dict": s, "feature_mean": list(MEAN), "feature_std": list(STD)}, None),
        (lambda s: {"state_dict": s, "mean": torch.tensor(0.9), "std": torch.tensor(0.01)}, None),
        (lambda s: {"state_dict": s, "mean": torch.ones(64), "std": torch.ones(64)}, None),
        (lambda s: {"state_dict": s, "mean": list(MEAN)}, None),
    ],
)
def test_other_statistics_are_not_taken(
    layout: Callable[[State], Any], part: str | None, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="does not record its input normalisation"):
        load(layout(make("wrn-10-1").state_dict()), tmp_path / "c.pt", part)


def test_contradicting_normalisations_are_not_used_and_noted(make: Make, tmp_path: Path) -> None:
    state = make("wrn-10-1").state_dict()
    value = {"state_dict": state, "train": buffers(""), "test": buffers("", scale=0.5)}
    ref = load(value, tmp_path / "c.pt", None, normalisation="none").ref
    assert "none of several input normalisations in the file was used: train.mean, test.mean" in ref.notes


@pytest.mark.parametrize("mean", [(0.5,) * 2, (float("nan"),) * 3])
def test_a_recorded_normalisation_that_cannot_be_applied_is_refused(
    mean: tuple[float, ...], make: Make, tmp_path: Path
) -> None:
    value = {"state_dict": make("wrn-10-1").state_dict(), "mean": list(mean), "std": [0.5]}
    with pytest.raises(UserError, match=r"c\.pt: Normalisation recorded .*Choose another one with --norm"):
        load(value, tmp_path / "c.pt", None)
    assert load(value, tmp_path / "c.pt", None, normalisation="2x-1").ref.normalisation.name == "2x-1"


@pytest.mark.parametrize(
    "extra",
    [
        {"n_classes": torch.tensor(4)},
        {"model.num_classes": torch.tensor([4])},
        {"epoch": torch.tensor(17), "eps": torch.tensor(0.03), "best_acc1": torch.tensor(0.5)},
        {"attack.eps": torch.tensor(0.03), "attack.steps": torch.tensor(10)},
        {"robust": torch.tensor(True)},
    ],
)
@pytest.mark.parametrize("prefix", ["", "model.1."])
def test_values_that_no_training_changes_do_not_stop_loading(
    extra: State, prefix: str, make: Make, tmp_path: Path
) -> None:
    state = {**extra, **prefixed(prefix, make("wrn-10-1").state_dict())}
    for value in (state, {"rmodel": state}, prefixed("module.", state)):
        ref = load(value, tmp_path / "c.pt", None, normalisation="none").ref
        assert any(re.match(r"left out \d values? that no training changes: ", note) for note in ref.notes)


@pytest.mark.parametrize(
    "extra",
    [{"logit_scale": torch.tensor(4.6)}, {"fc.scale": torch.tensor(15.0)}, {"bn1.eps": torch.tensor(1e-3)}],
)
def test_values_that_may_be_learned_or_belong_to_a_layer_stop_loading(
    extra: State, make: Make, tmp_path: Path
) -> None:
    state = {**make("wrn-10-1").state_dict(), **extra}
    with pytest.raises(UserError, match=f"not expected .*{next(iter(extra))}"):
        load(state, tmp_path / "c.pt", None, normalisation="none")


CODE = """
import torch
from torch import nn

class Counted(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(12, 4))
        {line}

def make():
    return Counted()
"""


@pytest.mark.parametrize("line", ["pass", "self.register_buffer('n_classes', torch.tensor(4))"])
@pytest.mark.parametrize("value", ["top", "part", "beside"])
def test_code_of_the_user_gets_the_recorded_normalisation_once(
    line: str, value: str, quadrants: Callable[..., Any], tmp_path: Path
) -> None:
    """Networks with and without a buffer for the count; neither applies the normalisation itself."""
    (tmp_path / "net.py").write_text(CODE.format(line=line))
    linear = nn.Linear(12, 4)
    with torch.no_grad():
        # Four quadrants of one pixel each: the brightest is the class.
        linear.weight.copy_(torch.eye(4).repeat(1, 3))
        linear.bias.zero_()
    state = {**prefixed("1.", linear.state_dict()), "n_classes": torch.tensor(4)}
    files: dict[str, Any] = {
        "top": {**buffers("norm."), **state},
        "part": {**buffers("outer.0."), **prefixed("outer.1.", state)},
        "beside": {"state_dict": state, "normalize": buffers("")},
    }
    loaded = load(
        files[value],
        tmp_path / "c.pt",
        "outer.1" if value == "part" else None,
        arch=f"{tmp_path / 'net.py'}:make",
        images=quadrants(64, side=2),
    )
    assert loaded.ref.normalisation.mean == MEAN


def test_names_of_mean_and_standard_deviation() -> None:
    names = ("a.pixel_mean", "a.pixel_std", "mu", "std", "mean_x", "text_mean", "text_std")
    entries = {name: [0.5] for name in names}
    assert pairs(entries) == [("a.pixel_mean", "a.pixel_std"), ("mu", "std")]
    assert among({}).notes == ()
    assert around({}, "").normalisation is None
    assert [name for name, _ in flattened({"a": [{"b": torch.ones(1)}], 1: torch.ones(1)})] == ["a.0.b"]
