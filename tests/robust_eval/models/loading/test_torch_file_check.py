"""Files of torch.save that describe what they do not hold, or that take long or much memory to read."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.untrusted_files import short
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.models.loading import file_reader

WEIGHTS = {"conv1.weight": torch.ones(4, 3, 3, 3), "conv1.bias": torch.zeros(4)}
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    content = pickle.encode_long(value)
    return b"\x8a" + bytes([len(content)]) + content


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


def storage(count: int, key: str = "0", kind: str = "FloatStorage", end: bytes = b"") -> bytes:
    return (
        b"("
        + text("storage")
        + f"ctorch\n{kind}\n".encode()
        + text(key)
        + text("cpu")
        + number(count)
        + end
        + b"tQ"
    )


def tensor(values: bytes, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    order = b"\x89ccollections\nOrderedDict\n)R"
    return TENSOR + b"(" + values + number(offset) + numbers(*shape) + numbers(*stride) + order + b"tR"


def entry(key: bytes, value: bytes) -> bytes:
    """A pickled dict of one entry."""
    return b"\x80\x02}(" + key + value + b"u."


def made(pickled: bytes, **records: bytes) -> bytes:
    """A file with this description; ``_0``: the values under the key 0 (by default four of float32)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        for key, content in {"_0": bytes(16), **records}.items():
            archive.writestr(f"m/data/{key.removeprefix('_')}", content)
        archive.writestr("m/version", b"3\n")
    return file.getvalue()


def legacy(pickled: bytes, rest: bytes) -> bytes:
    """A file in the format before torch 1.6; ``rest``: the keys and the values."""
    saved = io.BytesIO()
    torch.save({}, saved, _use_new_zipfile_serialization=False)
    head, content = saved.getvalue(), io.BytesIO(saved.getvalue())
    for _ in range(3):
        pickle.Unpickler(content).load()
    return head[: content.tell()] + pickled + rest


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def circular(branches: int) -> dict[str, Any]:
    value: dict[str, Any] = dict(WEIGHTS)
    value |= {f"k{index}": value for index in range(branches)}
    return value


def doubled() -> list[Any]:
    value: list[Any] = [1]
    for _ in range(50):
        value = [value, value]
    return value


GOOD = tensor(storage(4), 0, (2, 2), (2, 1))
WIDE = tensor(storage(1024), 0, (1024,), (1,))
CASES: list[tuple[Callable[[], bytes], str]] = [
    (lambda: saved(circular(400)), "m.pt is nested more than 64 levels deep (or contains itself)."),
    (lambda: saved({"a": doubled()}), "m.pt holds more than 500,000 values."),
    (lambda: made(entry(text("a"), b"]" * 5000 + b"a" * 4999)), "m.pt is nested more than 64 levels deep"),
    (lambda: made(entry(text("a"), b"K\x01" + b"\x85" * 300_000)), "m.pt is nested more than 64 levels deep"),
    (
        lambda: made(b"\x80\x02}(K\x01" + b"\x85" * 300_000 + b"K\x01u."),
        "has a key that is neither text nor a numb",
    ),
    (
        lambda: made(b"\x80\x02" + b"I1\n" * 1000 + b"."),
        "written with another pickle protocol than 2 to 5 (INT)",
    ),
    (lambda: made(b"\x80\x02](" + b"N" * 600_000 + b"e."), "m.pt consists of more than 500,000 parts."),
    (lambda: made(entry(text("\ud800"), b"N")), "m.pt has a name that is too long, or is not valid text."),
    (lambda: made(entry(text("a" * 2000), b"N")), "m.pt has a name that is too long, or is not valid text."),
    # Values that are not in the file.
    (
        lambda: made(entry(text("a"), tensor(storage(4), 0, (2, 10**6, 10**6), (0, 0, 0)))),
        "more than 20 times its",
    ),
    (
        lambda: made(entry(text("a"), tensor(storage(4), 0, (5,), (1,)))),
        "a tensor that lies outside its values",
    ),
    (
        lambda: made(entry(text("a"), tensor(storage(4), 3, (2,), (1,)))),
        "a tensor that lies outside its values",
    ),
    (lambda: made(entry(text("a"), tensor(storage(4), 0, (2,), (2**62,)))), "lies outside its values"),
    (lambda: made(entry(text("a"), tensor(storage(4), 0, (2, 2), (1,)))), "lies outside its values"),
    (lambda: made(entry(text("a"), tensor(storage(4), -1, (1,), (1,)))), "a tensor in an unusual way"),
    (lambda: made(entry(text("a"), tensor(storage(4), 0, (-1,), (1,)))), "a tensor in an unusual way"),
    (lambda: made(entry(text("a"), tensor(storage(4), 0, (2**70,), (0,)))), "a tensor in an unusual way"),
    (
        lambda: made(entry(text("a"), tensor(storage(4), 0, (1,) * 70, (1,) * 70))),
        "a tensor in an unusual way",
    ),
    (
        lambda: made(entry(text("a"), tensor(storage(10**13), 0, (10**13,), (1,)))),
        "does not contain the values that",
    ),
    (lambda: made(entry(text("a"), GOOD), _0=bytes(20)), "does not contain the values that it describes"),
    (lambda: made(entry(text("a"), tensor(storage(4, "7"), 0, (4,), (1,)))), "does not contain the values"),
    (
        lambda: made(entry(text("a"), tensor(storage(-4), 0, (4,), (1,)))),
        "refers to values in an unusual way",
    ),
    (
        lambda: made(entry(text("a"), tensor(storage(4, "0", "BoltStorage"), 0, (4,), (1,)))),
        "unknown type torch.Bolt",
    ),
    (
        lambda: made(entry(text("a"), tensor(storage(4, "0", "QInt8Storage"), 0, (4,), (1,)))),
        "unknown type torch.QInt8",
    ),
    (
        lambda: made(entry(text("a"), b"(" + GOOD + tensor(storage(9), 0, (4,), (1,)) + b"t")),
        "gives two sizes for the same values",
    ),
    (
        lambda: made(b"\x80\x02](" + WIDE + b"q\x01" + b"h\x01" * 100_000 + b"e.", _0=bytes(4096)),
        "20 times its size",
    ),
    # Tensors without ordinary values.
    (
        lambda: saved({"a": torch.zeros(3, device="meta")}),
        "holds a tensor without values (on the meta device)",
    ),
    (lambda: saved({"a": torch.eye(3).to_sparse()}), "m.pt holds a sparse tensor. Save the weights alone"),
    # Calls that allocate, or take long.
    (
        lambda: made(entry(text("a"), b"c__builtin__\nbytearray\n" + number(10**12) + b"\x85R")),
        "calls builtins.bytearr",
    ),
    (
        lambda: made(entry(text("a"), b"ctorch\nFloatTensor\n" + number(10**12) + b"\x85R")),
        "calls torch.FloatTensor",
    ),
    (
        lambda: made(entry(text("a"), b"c_codecs\nencode\n(" + text("a" * 10**5) + text("idna") + b"tR")),
        "calls _codecs.encode in an unusual way",
    ),
    (
        lambda: made(entry(text("a"), b"c__builtin__\nset\n](]]e\x85R")),
        "has a key that is neither text nor a number",
    ),
    (lambda: made(entry(text("a"), b"NNb")), "sets the state of an object that is neither a dict nor"),
    (lambda: made(entry(text("a"), GOOD + b"}b")), "sets the state of an object that is neither a dict nor"),
    (lambda: made(b"\x80\x02K\x01K\x02K\x03s."), "sets entries of something other than a dict"),
    (lambda: made(b"\x80\x02K\x01K\x02a."), "appends to something other than a list"),
    (lambda: made(b"\x80\x02K\x01K\x02R."), "calls something that is not a function"),
    # Misuse of the names and objects of other programs.
    (lambda: made(b"\x80\x02cos\nsystem\n(U\x01aK\x01u."), "sets entries of something other than a dict"),
    (lambda: made(b"\x80\x02cos\nsystem\n}b."), "sets the state of an object that is neither a dict nor"),
    (lambda: made(b"\x80\x02cos\nsystem\nK\x01a."), "appends to something other than a list"),
    (lambda: made(b"\x80\x02cos\nsystem\nK\x01R."), "calls something that is not a function"),
    (lambda: made(b"\x80\x02" + GOOD + b")R."), "calls something that is not a function"),
    (lambda: made(b"\x80\x02}U\x01a" + GOOD + b")\x81s."), "calls something that is not a function"),
    (lambda: made(b"\x80\x04K\x01K\x02\x93."), "imports something without a name"),
    (lambda: made(b"\x80\x04cos\nsystem\nK\x01}\x92."), "calls something in an unusual way"),
    (lambda: made(b"\x80\x04\x8f(cos\nsystem\n)R]\x90."), "has a key that is neither text nor a number"),
    (lambda: made(b"\x80\x02(cos\nsystem\no."), "written with another pickle protocol than 2 to 5 (OBJ)"),
    (lambda: made(b"\x80\x02\x82\x01."), "written with another pickle protocol than 2 to 5 (EXT1)"),
    (lambda: made(b"\x80\x05\x97."), "written with another pickle protocol than 2 to 5 (NEXT_BUFFER)"),
    (lambda: made(b"\x80\x02cos\nsystem\nQ."), "refers to values in an unusual way"),
    (
        lambda: made(entry(text("a"), TENSOR + b"(N" + number(0) + numbers(1) + numbers(1) + b"tR")),
        "describes a tensor in an unusual way",
    ),
    (
        lambda: made(
            b"\x80\x02}(U\x01a" + GOOD + b"U\x01bctorch._utils\n_rebuild_qtensor\ncos\nsystem\n\x85Ru."
        ),
        "holds a quantised tensor",
    ),
    (
        lambda: legacy(b"\x80\x02}U\x01acos\nsystem\n)Rs.", b"\x80\x02]U\x010a."),
        "does not contain the values that it describes",
    ),
    (
        lambda: legacy(
            b"\x80\x02}(U\x01acos\nsystem\n)RU\x01b" + tensor(storage(4, end=b"N"), 0, (4,), (1,)) + b"u.",
            b"\x80\x02]U\x010a." + struct.pack("<q", 5) + bytes(20),
        ),
        "does not contain the values that it describes",
    ),
    (lambda: made(b"\x80\x02h\x07."), "m.pt is a damaged checkpoint: it cannot be read completely."),
    (lambda: made(b""), "m.pt is a damaged checkpoint: it cannot be read completely."),
    (
        lambda: made(b"\x80\x02X\xff\xff\xff\xffabc"),
        "m.pt is a damaged checkpoint: it cannot be read completely.",
    ),
    # The format before torch 1.6, which allocates the values before it reads them.
    (
        lambda: legacy(
            entry(text("a"), tensor(storage(10**12, end=b"N"), 0, (10**12,), (1,))),
            b"\x80\x02](X\x01\0\0\0" + b"0e.",
        ),
        "m.pt is a damaged checkpoint: it is truncated.",
    ),
    (
        lambda: legacy(entry(text("a"), tensor(storage(4, end=b"N"), 0, (4,), (1,))), b"\x80\x02]."),
        "does not contain the values that it describes",
    ),
    (
        lambda: legacy(
            entry(text("a"), tensor(storage(4, end=numbers(1, 2, 3)), 0, (4,), (1,))), b"\x80\x02]."
        ),
        "refers to values in an unusual way",
    ),
    (
        lambda: saved(circular(400), _use_new_zipfile_serialization=False),
        "is nested more than 64 levels deep",
    ),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("make", "message"), CASES, ids=short)
def test_other_files_are_refused(make: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(make())
    with pytest.raises(UserError, match=re.escape(message)):
        file_reader.read(path)


def test_the_hand_made_description_is_that_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(made(entry(text("a"), GOOD)))
    assert torch.equal(file_reader.read(tmp_path / "m.pt").value["a"], torch.zeros(2, 2))


def ordinary() -> dict[str, Any]:
    base = torch.rand(10, 10)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimiser = torch.optim.Adam(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimiser.step()
    marked = nn.Parameter(torch.ones(2))
    marked.tag = "x"  # type: ignore[attr-defined]
    return {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "parameters": list(network.parameters()),
        "marked": marked,
        "views": (base[3:5, ::2], base.t(), base[:, :0], base, base.view(-1), torch.zeros(1).expand(64)),
        "types": [
            base.to(kind) for kind in (torch.half, torch.bfloat16, torch.double, torch.int8, torch.bool)
        ],
        "complex": torch.ones(3, dtype=torch.complex64).conj(),
        "channels last": torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "values": (
            torch.Size([1, 2]),
            torch.device("cpu"),
            torch.float32,
            {1, "a"},
            b"\xff",
            bytearray(b"x"),
            1 + 2j,
        ),
        "more": [Counter("aab"), OrderedDict(a=1), None, True, 2**80, -(2**40), float("nan"), {(1, 2): 3}],
        "generator": torch.get_rng_state(),
    }


@pytest.mark.parametrize("new", [True, False])
def test_everything_that_training_usually_saves_is_read(tmp_path: Path, new: bool) -> None:
    path = tmp_path / "m.pt"
    content = ordinary()
    path.write_bytes(saved(content, _use_new_zipfile_serialization=new))
    found = file_reader.read(path).value
    assert found.keys() == content.keys()
    assert all(torch.equal(a, b) for a, b in zip(found["views"], content["views"], strict=True))
    assert found["values"] == content["values"]


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(WEIGHTS, tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert file_reader.read(tmp_path / "m.pt").value.keys() == WEIGHTS.keys()
