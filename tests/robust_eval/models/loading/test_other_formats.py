"""Files and folders of other programs: a sentence names each, and tells how to get a state dict out."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from robust_eval.core.errors import UserError
from robust_eval.models.loading import file_head
from robust_eval.models.loading.file_reader import read

STATE = {"a.weight": torch.rand(3, 2), "b.weight": torch.rand(4), "b.bias": torch.rand(2)}
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()


def content(*parts: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(b"".join(parts))


def archive(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"x")

    return write


def folder(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.mkdir()
        for name in names:
            (path / name).write_bytes(b"x")

    return write


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(NETWORK, (torch.rand(1, 1, 2, 2),)), path)


def scripted(path: Path) -> None:
    torch.jit.save(torch.jit.trace(NETWORK, torch.rand(1, 1, 2, 2)), path)


ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.5.0"
TRANSPOSE = "copy them into one, then torch.save(network.state_dict(), 'weights.pt')."


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "write", "what", "advice"),
    [
        (
            "m.onnx",
            content(ONNX),
            "is an ONNX model, not a checkpoint.",
            "onnx.load(FILE).graph.initializer}",
        ),
        ("m.bin", content(ONNX), "is an ONNX model, not a checkpoint.", "torch.save({t.name:"),
        ("m.pt", scripted, "is a TorchScript archive", "torch.save(torch.jit.load(FILE).state_dict(), 'we"),
        ("m.pt2", exported, "is a program written by torch.export.", "dict(torch.export.load(FILE).state_di"),
        ("m.keras", archive("metadata.json", "model.weights.h5"), "is a Keras model, not a", TRANSPOSE),
        ("m.h5", content(b"\x89HDF\r\n"), "is an HDF5 file (Keras?), not a checkpoint.", TRANSPOSE),
        (
            "m.msgpack",
            content(b"\x81\xa6params"),
            "is a file of Flax (msgpack)",
            "msgpack_restore. Its weights",
        ),
        ("m.ckpt", content(b"\x82\xa6params"), "is a file of Flax (msgpack), not", TRANSPOSE),
        ("m.tflite", content(b"\x1c\0\0\0TFL3"), "is a file of TensorFlow, not a", TRANSPOSE),
        ("m.bin", content(b"\x1c\0\0\0TFL3"), "is a file of TensorFlow, not a", TRANSPOSE),
        ("m.ckpt.index", content(b"\0\0\1"), "is a file of TensorFlow, not a", TRANSPOSE),
        ("m.ckpt.data-00000-of-00001", content(b"\0\0\1"), "is a file of TensorFlow, not a", TRANSPOSE),
        ("checkpoint", content(b'model_checkpoint_path: "m"'), "is a file of TensorFlow, not", TRANSPOSE),
        ("saved", folder("saved_model.pb"), "is a folder of TensorFlow, not a checkpoint of", TRANSPOSE),
        ("m.npz", lambda path: np.savez(path, w=np.ones(2)), "is a NumPy archive", "torch.from_numpy(v)"),
        (
            "m.npy",
            lambda path: np.save(path, np.ones(2)),
            "is a NumPy array",
            "numpy.load(FILE, allow_pickle=Tr",
        ),
        ("m", folder("_METADATA", "manifest.ocdbt"), "is a checkpoint of Orbax (JAX).", "orbax.checkpoint"),
        (
            "m",
            folder(".metadata", "__0_0.distcp"),
            "is a folder of torch.distributed.checkpoint.",
            "dcp_to_tor",
        ),
        (
            "__0_0.distcp",
            content(b"PK\x03\x04"),
            "is one part of a checkpoint of torch.distributed",
            "dcp_to_t",
        ),
        ("m.gguf", content(b"GGUF\3"), "is a GGUF file of a language model", "Choose an image classifier."),
        (
            "b.json",
            content(b'{"weight_map": {}}'),
            "is the index of a checkpoint in several pickles",
            "safet",
        ),
        ("m", folder("x"), "is a folder. Name a file in it.", ""),
        ("m", folder("m.safetensors.index.json"), "is a folder. Name the index in it: ", "index.json."),
    ],
)
def test_each_kind_is_named(
    name: str, write: Callable[[Path], object], what: str, advice: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(UserError, match=f"^{re.escape(str(path))} {re.escape(what)}.*{re.escape(advice)}"):
        read(path)


@pytest.mark.filterwarnings("ignore")
def test_the_advice_gives_a_state_dict(tmp_path: Path) -> None:
    scripted(tmp_path / "m.pt")
    exported(tmp_path / "m.pt2")
    np.savez(tmp_path / "m.npz", **{key: value.numpy() for key, value in NETWORK.state_dict().items()})
    for name in ("m.pt", "m.pt2", "m.npz"):
        with pytest.raises(UserError) as caught:
            read(tmp_path / name)
        code = str(caught.value)[str(caught.value).index("torch.save(") :].removesuffix(".")
        code = code.replace("FILE", repr(str(tmp_path / name))).replace("weights.pt", f"{tmp_path}/w.pt")
        exec(code, {"torch": torch, "numpy": np})
        found = read(tmp_path / "w.pt").value
        assert all(torch.equal(found[key], value) for key, value in NETWORK.state_dict().items())


def sharded(path: Path) -> Path:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    save_file({"a.weight": STATE["a.weight"]}, path / names[0])
    save_file({key: STATE[key] for key in ("b.weight", "b.bias")}, path / names[1])
    weight_map = {"a.weight": names[0], "b.weight": names[1], "b.bias": names[1]}
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 48}, "weight_map": weight_map}))
    return index


def test_safetensors_in_parts_are_read_by_their_index(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    contents = read(index)
    assert contents.format == "safetensors"
    assert all(torch.equal(contents.value[key], value) for key, value in STATE.items())
    # The digest covers the parts.
    part = tmp_path / "model-00002-of-00002.safetensors"
    save_file({"b.weight": STATE["b.weight"] + 1, "b.bias": STATE["b.bias"]}, part)
    assert read(index).sha256 != contents.sha256
    save_file({"b.weight": STATE["b.weight"]}, part)
    with pytest.raises(UserError, match=r"The parts of .*index\.json do not contain the tensors that it nam"):
        read(index)
    save_file(STATE, part)
    with pytest.raises(UserError, match=r"00002-of-00002\.safetensors contains tensors of another part\."):
        read(index)
    part.write_bytes(b"damaged" * 4)
    with pytest.raises(UserError, match=r"00002-of-00002\.safetensors is not a safetensors file\. Download"):
        file_head.check(index)
    part.unlink()
    with pytest.raises(UserError, match=r"00002-of-00002\.safetensors does not exist\. Check the path"):
        file_head.check_source(str(index))


def test_one_part_alone_names_the_index(tmp_path: Path) -> None:
    index = sharded(tmp_path)
    with pytest.raises(
        UserError, match=rf"is one of 2 parts of a .*Name their index: {re.escape(str(index))}"
    ):
        read(tmp_path / "model-00001-of-00002.safetensors")


@pytest.mark.parametrize(
    "name", ["../m.safetensors", "/m.safetensors", "m.pt", "", "a/m.safetensors", 3, None]
)
def test_an_index_names_files_of_its_own_folder(name: object, tmp_path: Path) -> None:
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"names no safetensors files in its own folder"):
        read(index)
    for text in ('{"weight_map": []}', "[]", "{}"):
        index.write_text(text)
        with pytest.raises(UserError, match=r"names no safetensors files in its own folder"):
            read(index)
