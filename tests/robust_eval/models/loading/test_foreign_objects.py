"""Objects of other programs in a checkpoint: nothing is imported or called, their tensors are read."""

from __future__ import annotations

import argparse
import datetime
import enum
import io
import pickle
import sys
from collections import OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.models.loading import file_reader
from robust_eval.models.loading.foreign_weights import weights
from robust_eval.models.loading.pickle_calls import Inert

NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
STATE = NETWORK.state_dict()
PROTOCOLS = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


class AverageMeter:
    def __init__(self) -> None:
        self.val, self.mean, self.std = 0.5, [0.1, 0.2, 0.3], [1, 1, 1]
        self.owner = self


class EasyDict(dict[str, Any]):
    """A dict whose entries are attributes too, as in the package easydict."""

    def __init__(self, entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self.__dict__.update(entries)


class Slotted:
    __slots__ = ("tensor",)

    def __init__(self) -> None:
        self.tensor = torch.ones(3)


class Pair(namedtuple("Pair", "first second")):
    pass


class Colour(enum.Enum):
    RED = 1


class Trainer:
    def __init__(self, model: nn.Module) -> None:
        self.model, self.lr, self.history = model, 0.1, [self]


def read(value: Any, folder: Path, **options: Any) -> file_reader.Contents:
    torch.save(value, folder / "m.pt", **options)
    return file_reader.read(folder / "m.pt")


def equal(found: Any, expected: Any) -> bool:
    return list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


BESIDE: dict[str, Callable[[], Any]] = {
    "custom": AverageMeter,
    "path": lambda: Path("somewhere/else"),
    "datetime": lambda: datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "easydict": lambda: EasyDict({"lr": 0.1, "inner": EasyDict({"a": 1})}),
    "defaultdict": lambda: defaultdict(list, {"loss": [1.0]}),
    "namespace": lambda: argparse.Namespace(lr=0.1),
    "enum": lambda: {Colour.RED: Colour.RED},
    "frozenset": lambda: frozenset({1, "a"}),
    "pair": lambda: Pair(1, 2),
    "function": lambda: np.mean,
    "device": lambda: torch.device("cpu"),
    "text": lambda: "x" * 300,
    "bytes": lambda: (b"\xff", bytearray(b"\xff" * 300), 2**80, -(2**3000)),
}


@PROTOCOLS
@pytest.mark.parametrize(
    "options", [*({"pickle_protocol": p} for p in (2, 3, 4, 5)), {"legacy": True}], ids=str
)
def test_the_weights_beside_objects_are_read(options: dict[str, Any], tmp_path: Path) -> None:
    if options.pop("legacy", False):
        options = {"_use_new_zipfile_serialization": False}
    value = {"epoch": 3, "state_dict": STATE, **{name: make() for name, make in BESIDE.items()}}
    contents = read(value, tmp_path, **options)
    assert equal(contents.value["state_dict"], STATE)
    found = weights(contents.value, "m.pt")
    assert equal(
        found.state,
        {key: entry.float() if entry.is_floating_point() else entry for key, entry in STATE.items()},
    )
    assert found.facts == {"epoch": 3}
    # Numbers in an object of another program describe no input normalisation.
    assert found.normalisation is None
    assert f"{__name__}.AverageMeter" in contents.foreign
    assert contents.value["custom"] == contents.value["path"] == Inert()


def test_the_result_names_what_was_left_out(tmp_path: Path) -> None:
    notes = read({"net": STATE, "meter": AverageMeter(), "when": datetime.timedelta(1)}, tmp_path).notes
    assert notes == (
        f"objects of other programs were not created: {__name__}.AverageMeter, datetime.timedelta",
    )
    assert read(STATE, tmp_path).notes == ()


@PROTOCOLS
@pytest.mark.parametrize(
    "options", [{}, {"pickle_protocol": 5}, {"_use_new_zipfile_serialization": False}], ids=str
)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_whole_modules_are_read_as_their_state_dicts(options: dict[str, Any], tmp_path: Path) -> None:
    network = nn.Sequential(OrderedDict(body=NETWORK, head=nn.Linear(2, 2, bias=False)))
    network.register_buffer("hidden", torch.ones(2), persistent=False)
    network.register_buffer("shown", torch.ones(2))
    for value in (network, {"net": network, "acc": 0.5}, nn.DataParallel(network)):
        found = weights(read(value, tmp_path, **options).value, "m.pt").state
        assert {*found} == {*network.state_dict()}
        assert all(torch.equal(found[key], entry) for key, entry in network.state_dict().items())


def test_tensors_within_objects_are_read(tmp_path: Path) -> None:
    value = read(
        {"trainer": Trainer(NETWORK), "slots": Slotted(), "easy": EasyDict({"ema": STATE})}, tmp_path
    ).value
    assert equal(value["trainer"]["model"], STATE)
    assert "lr" not in value["trainer"]
    assert value["slots"]["tensor"].tolist() == [1, 1, 1]
    assert equal(value["easy"]["ema"], STATE)


@PROTOCOLS
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("plain", [False, True])
def test_numpy_state_dicts(protocol: int, plain: bool, tmp_path: Path) -> None:
    arrays = {key: entry.numpy() for key, entry in STATE.items()}
    arrays["f"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    arrays["big"] = np.arange(4, dtype=">f4")
    arrays["text"] = np.array(["a"])
    arrays["objects"] = np.array([None, {}], dtype=object)
    if plain:
        (tmp_path / "m.pt").write_bytes(pickle.dumps(arrays, protocol))
        found = file_reader.read(tmp_path / "m.pt").value
    else:
        found = read(arrays, tmp_path, pickle_protocol=protocol).value
    assert found["text"] == found["objects"] == Inert()
    for key, entry in arrays.items():
        if key not in ("text", "objects"):
            assert np.array_equal(found[key].numpy(), entry), key
            assert found[key].numpy().dtype == entry.dtype.newbyteorder("=")


def test_every_kind_of_tensor_is_that_of_the_weights_only_reader(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        **{
            str(kind): base.to(kind)
            for kind in (torch.half, torch.bfloat16, torch.double, torch.uint8, torch.bool)
        },
        "float8": base.to(torch.float8_e4m3fn),
        "uint16": base.to(torch.uint16),
        "view": base[1:3, ::2].t(),
        "expanded": base[:1].expand(5, 6),
        "empty": base[:0],
        "scalar": base[1, 1],
        "parameter": nn.Parameter(base),
        "channels last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
    }
    plain = read(tensors, tmp_path).value
    for new in (True, False):
        chosen = {k: v for k, v in tensors.items() if new or k not in ("float8", "uint16")}
        found = read({"t": chosen, "x": AverageMeter()}, tmp_path, _use_new_zipfile_serialization=new).value[
            "t"
        ]
        for key, entry in found.items():
            assert entry.dtype == plain[key].dtype
            assert entry.stride() == plain[key].stride()
            assert torch.equal(entry.float(), plain[key].float())


def test_shared_tensors_stay_shared(tmp_path: Path) -> None:
    shared = torch.rand(3)
    found = read({"a": shared, "b": shared, "c": shared[1:], "x": AverageMeter()}, tmp_path).value
    assert found["a"].data_ptr() == found["b"].data_ptr() == found["c"].data_ptr() - 4


def test_a_lambda_of_dill(tmp_path: Path) -> None:
    dill = pytest.importorskip("dill")
    offset = 3
    torch.save(
        {"net": STATE, "f": lambda x: x + offset, "c": AverageMeter}, tmp_path / "m.pt", pickle_module=dill
    )
    assert equal(file_reader.read(tmp_path / "m.pt").value["net"], STATE)


@pytest.mark.parametrize("new", [False, True])
def test_weight_normalisation_is_folded(new: bool) -> None:
    torch.manual_seed(0)
    wrap = nn.utils.parametrizations.weight_norm if new else nn.utils.weight_norm
    network = nn.Sequential(
        wrap(nn.Conv2d(3, 4, 3)), nn.Flatten(), wrap(nn.Linear(16, 2), dim=None), wrap(nn.Linear(2, 1))
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    found = weights(network.state_dict(), "m.pt")
    assert found.notes == ("folded weight normalisation into 3 layers",)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2), nn.Linear(2, 1))
    plain.load_state_dict(found.state)
    x = torch.rand(2, 3, 4, 4)
    assert torch.allclose(plain(x), network(x), atol=1e-6)
    assert {*found.stored} == {*network.state_dict()}


def test_losses_and_metrics_of_lightning_are_left_out() -> None:
    inner = {f"model.{key}": entry for key, entry in STATE.items()}
    beside = {
        "train_acc.tp": torch.ones(3),
        "criterion.weight": torch.ones(2),
        "val_metrics.F1.fp": torch.ones(3),
    }
    found = weights({"pytorch-lightning_version": "2.5", "state_dict": inner | beside}, "m.pt")
    assert {*found.state} == {*inner}
    assert (
        "left out tensors of losses and metrics: train_acc.tp, criterion.weight, val_metrics.F1.fp"
        in found.notes
    )
    # Without the mark of Lightning, and for layers with other names, nothing is left out.
    assert {*weights({"state_dict": inner | beside}, "m.pt").state} == {*inner, *beside}
    head = {"head.weight": torch.ones(2, 2), "accumulator.weight": torch.ones(2)}
    kept = weights({"pytorch-lightning_version": "2.5", "state_dict": inner | head}, "m.pt")
    assert {*kept.state} == {*inner, *head}


# Hostile files. Each expression is what a pickle would evaluate; none of it may run.


class Calls:
    """Pickled as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any, **more: Any) -> None:
        self.reduced = (function, arguments, *more.values())

    def __reduce__(self) -> Any:
        return self.reduced


def forbidden(*_: Any, **__: Any) -> Any:
    raise AssertionError("was called")


class Forbidden:
    def __new__(cls, *_: Any) -> Any:
        return forbidden()

    __init__ = __call__ = __setstate__ = __setitem__ = append = extend = __hash__ = __eq__ = forbidden


HOSTILE: dict[str, Callable[[], Any]] = {
    "eval": lambda: Calls(eval, "open('ran', 'w')"),
    "exec": lambda: Calls(exec, "open('ran', 'w')"),
    "open": lambda: Calls(open, "ran", "w"),
    "getattr": lambda: Calls(getattr, "", "join"),
    "import": lambda: Calls(__import__, "antigravity"),
    "torch.load": lambda: Calls(torch.load, "ran"),
    "torch.save": lambda: Calls(torch.save, {}, "ran"),
    "torch.hub": lambda: Calls(torch.hub.load, "a/b", "c"),
    "safe_globals": lambda: Calls(torch.serialization.add_safe_globals, [eval]),
    "class": lambda: Calls(forbidden, 1),
    "state": lambda: Calls(Forbidden, 1, state={"x": 1}),
    "items": lambda: Calls(Forbidden, 1, state=None, items=iter([1, 2])),
    "entries": lambda: Calls(Forbidden, 1, state=None, items=None, entries=iter([("a", 1)])),
    "threads": lambda: Calls(torch.set_num_threads, 1),
    "called object": lambda: Calls(map, Calls(forbidden), [1]),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_of_a_hostile_file_runs(
    name: str, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"net": STATE, "x": HOSTILE[name]()}, "m.pt", _use_new_zipfile_serialization=not legacy)
    modules, allowed, random = {*sys.modules}, torch.serialization.get_safe_globals(), torch.get_rng_state()
    found = file_reader.read(Path("m.pt")).value
    assert equal(found["net"], STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]
    assert {*sys.modules} == modules
    assert torch.serialization.get_safe_globals() == allowed
    assert torch.equal(torch.get_rng_state(), random)
    # An object with entries becomes a dict of its plain entries, one with items a list.
    assert found["x"] in (Inert(), [1, 2], {"a": 1})


def test_modules_that_repeat_each_other_are_bounded(tmp_path: Path) -> None:
    """Each module contains the one before twice: 2 ** 26 names in a short file."""
    module: nn.Module = nn.Linear(1, 1)
    for _ in range(25):
        module = nn.Sequential(module, module)
    with pytest.raises(UserError, match=r"m\.pt holds a module of more than 20,000 tensors"):
        read(module, tmp_path)


@pytest.mark.parametrize("levels", [40, 130])
def test_the_depth_of_objects_is_bounded(levels: int, tmp_path: Path) -> None:
    value: Any = torch.ones(1)
    for _ in range(levels):
        value = Pair(value, 0)
    if levels < 64:
        assert equal(read({"net": STATE, "x": value}, tmp_path).value["net"], STATE)
    else:
        with pytest.raises(UserError, match="is nested more than 64 levels deep"):
            read({"net": STATE, "x": value}, tmp_path)


def test_a_huge_tensor_of_few_bytes_within_an_object_is_refused(tmp_path: Path) -> None:
    holder = Slotted()
    holder.tensor = torch.zeros(1).expand(10**6, 10**6)
    with pytest.raises(UserError, match=r"describes values of more than 20 times its size"):
        read({"net": STATE, "x": holder}, tmp_path)


def test_false_descriptions_of_arrays_are_refused(tmp_path: Path) -> None:
    array = np.arange(4.0)
    content = io.BytesIO()
    pickle.Pickler(content, 4).dump({"w": array})
    damaged = content.getvalue().replace(b"K\x04\x85", b"K\x05\x85")
    assert damaged != content.getvalue()
    (tmp_path / "m.pt").write_bytes(damaged)
    with pytest.raises(UserError, match=r"m\.pt describes an array in an unusual way"):
        file_reader.read(tmp_path / "m.pt")


def test_a_negated_view_beside_an_object_is_refused(tmp_path: Path) -> None:
    negated: Tensor = torch.ones(3, dtype=torch.complex64).conj().imag
    assert negated.is_neg()
    with pytest.raises(UserError, match=r"m\.pt holds a negated or conjugated tensor"):
        read({"w": negated, "x": AverageMeter()}, tmp_path)
