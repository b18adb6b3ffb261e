"""Reading of files: error messages for files that are no checkpoint; no code in a file is executed."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robust_eval.core.errors import UserError
from robust_eval.models.loading import file_reader
from robust_eval.models.loading.file_reader import read
from robust_eval.models.loading.pickle_calls import Inert

WEIGHTS = {"conv1.weight": torch.ones(4, 3, 3, 3), "conv1.bias": torch.zeros(4)}


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"echo ran > '{self.target}'",)


def tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        info = tarfile.TarInfo("storages")
        info.size = 4
        archive.addfile(info, io.BytesIO(b"data"))


def archive(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for name in names:
                file.writestr(name, b"x")

    return write


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"x")
        file.writestr("archive/data/0", bytes(30_000_000))


def bytes_of(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def truncated(path: Path) -> None:
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-200])


def truncated_legacy(path: Path) -> None:
    torch.save(WEIGHTS, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    """A zip file with a damaged pickle and an intact directory."""
    torch.save(WEIGHTS, path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"conv1.weight", b"\xff" * 12, 1))


def short_safetensors(path: Path) -> None:
    save_file(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (bytes_of(b""), "m.pt is empty (0 bytes). Download or copy it again."),
        (bytes_of(b"\n<!DOCTYPE html><html><body>Sign in</body>"), "m.pt is a web page, not a checkpoint"),
        (bytes_of(b"<HTML><head>"), "m.pt is a web page, not a checkpoint"),
        (
            bytes_of(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n"),
            "m.pt is a Git LFS pointer, not the file itself. Fetch it with: git lfs pull.",
        ),
        (bytes_of(b"epoch 3 loss 0.2\n"), "m.pt is a text file, not a checkpoint. It starts with 'epoch 3"),
        (bytes_of(b"\x1f\x8b\x08\x00"), "m.pt is a gzip archive: unpack it first, not a checkpoint."),
        (bytes_of(b"\x00\x01\x02\x03\x04"), "m.pt is not a checkpoint: it starts with 00 01 02 03."),
        (tar, "a torch checkpoint from before 2017, which the weights-only reader cannot open"),
        (archive("x/code/m.py", "x/constants.pkl"), "m.pt is a TorchScript archive, which carries code."),
        (
            archive("x.npy"),
            "m.pt is a NumPy archive, not a checkpoint. For images use --data npz:FILE; for we",
        ),
        (archive("readme"), "m.pt is a zip archive without a checkpoint at its top. Unpack it first."),
        (bomb, "m.pt unpacks to more than 20 times its size. Download or copy it again."),
        (truncated, "m.pt is truncated, or other data follow the archive. Download or copy it again."),
        (truncated_legacy, "m.pt is a damaged checkpoint"),
        (flipped, "m.pt is a damaged checkpoint"),
        (short_safetensors, "m.pt is not a safetensors file, or a damaged one (it holds 348 bytes of 448"),
        (
            lambda path: path.write_bytes(pickle.dumps([Decimal(1), {"x": 0.5}]) * 2),
            "m.pt consists of several pickles. Save the weights alone",
        ),
        (
            lambda path: path.write_bytes(pickle.dumps(WEIGHTS)),
            "m.pt was written by pickle, not by torch.save. Save the weights alone: torch.save(",
        ),
        (
            lambda path: torch.save(WEIGHTS, path, pickle_protocol=1),
            "m.pt is written with another pickle protocol than 2 to 5 (",
        ),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(
    write: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.pt"
    write(path)
    with pytest.raises(UserError, match=re.escape(message)):
        read(path)


def test_missing_files_folders_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pt does not exist\. Check the path"):
        read(tmp_path / "none.pt")
    with pytest.raises(UserError, match=r"is a folder\. Name a file in it\."):
        read(tmp_path)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(UserError, match=r"cannot be read: Not a directory\."):
        read(tmp_path / "file" / "m.pt")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("forced", [False, True])
def test_code_in_a_pickle_is_not_executed(
    legacy: bool, forced: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if forced:
        # Overrides calls of torch.load that leave weights_only unset.
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    target = tmp_path / "ran"
    path = tmp_path / "m.pt"
    torch.save({"state_dict": WEIGHTS, "x": Payload(target)}, path, _use_new_zipfile_serialization=not legacy)
    contents = read(path)
    assert not target.exists()
    assert contents.foreign in (("posix.system",), ("nt.system",))
    assert torch.equal(contents.value["state_dict"]["conv1.weight"], WEIGHTS["conv1.weight"])
    assert contents.value["x"] == Inert()


def test_a_plain_pickle_runs_nothing(tmp_path: Path) -> None:
    path, target = tmp_path / "m.pkl", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"x": Payload(target), "w": np.arange(3.0)}, protocol=4))
    value = read(path).value
    assert value["x"] == Inert()
    assert value["w"].tolist() == [0, 1, 2]
    assert not target.exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_the_hash_covers_the_bytes_of_the_file(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    if kind == "safetensors":
        save_file(WEIGHTS, path, metadata={"epoch": "3"})
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=kind == "zip")
    contents = read(path)
    assert contents.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert contents.format == ("safetensors" if kind == "safetensors" else "torch")
    assert contents.metadata == ({"epoch": "3"} if kind == "safetensors" else {})
    assert torch.equal(contents.value["conv1.weight"], WEIGHTS["conv1.weight"])


@pytest.mark.parametrize("legacy", [False, True])
def test_old_versions_of_torch_read_safetensors_and_own_files_only(
    legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_reader, "SAFE_TORCH", "2.10")
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1"))
    own = {"format_version": 1, "architecture": {}, "state_dict": WEIGHTS}
    resume = {"format": "defenses-resume", "version": 1, "identity": "{}", "state": WEIGHTS}
    for value in (own, resume):
        torch.save(value, tmp_path / "own.pt", _use_new_zipfile_serialization=not legacy)
        assert read(tmp_path / "own.pt").value.keys() == value.keys()
    save_file(WEIGHTS, tmp_path / "net.safetensors")
    assert read(tmp_path / "net.safetensors").value.keys() == WEIGHTS.keys()
    torch.save(WEIGHTS, tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "net.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'net.pt'} is a pickle of another program, which is read with torch 2.10 or newer "
        "(this is 2.9.1). Upgrade torch, or convert the file to safetensors elsewhere."
    )
