from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from support.untrusted_files import short

from robust_eval.core.errors import UserError
from robust_eval.data import load, mnist
from robust_eval.data.mnist import read_idx


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


IMAGES = np.arange(5 * 28 * 28).reshape(5, 28, 28) % 256
LABELS = np.array([7, 2, 1, 0, 4])


def write(folder: Path, *, packed: bool, dotted: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS)):
        name = f"t10k{'-' + kind.replace('-', '.') if dotted else '-' + kind}-ubyte"
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))


@pytest.fixture
def taken_for_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    digests = tuple(hashlib.md5(part.astype(np.uint8).tobytes()).hexdigest() for part in (IMAGES, LABELS))
    monkeypatch.setitem(mnist._MD5, "test", digests)


@pytest.mark.usefixtures("taken_for_mnist")
@pytest.mark.parametrize("folder", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("packed", [True, False])
def test_files_are_found_in_the_usual_folders(tmp_path: Path, folder: str, packed: bool) -> None:
    write(tmp_path / folder, packed=packed)
    images = load("mnist", root=tmp_path)
    assert images.x_NHWC.shape == (5, 28, 28, 1)
    assert np.array_equal(images.x_NHWC[..., 0], IMAGES)
    assert images.y_N.tolist() == LABELS.tolist()
    assert images.classes == 10


def test_other_images_with_the_file_names_of_mnist_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "FashionMNIST" / "raw", packed=True)
    with pytest.raises(UserError, match="raw holds other images than MNIST's under its file names"):
        load("mnist", root=tmp_path / "FashionMNIST" / "raw")


@pytest.mark.usefixtures("taken_for_mnist")
def test_file_names_with_a_dot_are_found(tmp_path: Path) -> None:
    write(tmp_path, packed=False, dotted=True)
    assert load("mnist", root=tmp_path).n == 5


def test_real_files(data_root: Path) -> None:
    train, test = load("mnist", root=data_root, split="train"), load("mnist", root=data_root)
    assert (train.n, test.n) == (60_000, 10_000)
    assert test.y_N[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    unpacked = bytes.fromhex("00000803 0000ea60 0000001c 0000001c") + train.x_NHWC.tobytes()
    assert hashlib.md5(unpacked).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"


def replace(folder: Path, name: str, content: bytes) -> None:
    write(folder, packed=False)
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-images-idx3-ubyte", b"<html>not here</html>", "is not an IDX file of bytes in 3 dimension"),
        ("t10k-images-idx3-ubyte", idx(LABELS), "is not an IDX file of bytes in 3 dimension"),
        ("t10k-images-idx3-ubyte", b"", "is not an IDX file"),
        (
            "t10k-images-idx3-ubyte",
            idx(IMAGES)[:-1],
            "should hold 3920 bytes after its header and holds only 3919",
        ),
        (
            "t10k-images-idx3-ubyte",
            idx(IMAGES) + b"x",
            "should hold 3920 bytes after its header and holds more",
        ),
        ("t10k-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "declares .* bytes, more than"),
        ("t10k-labels-idx1-ubyte", idx(LABELS[:4]), "has 5 images and t10k-labels-idx1-ubyte 4 labels"),
        ("t10k-labels-idx1-ubyte", idx(LABELS + 9), "has the label 16; MNIST's are 0 to 9"),
    ],
)
def test_damaged_files_give_an_error_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    replace(tmp_path, name, content)
    with pytest.raises(UserError, match=message):
        load("mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip", "is damaged"),
        (b"", r"is damaged \(the file is truncated\)"),
        (gzip.compress(idx(LABELS), mtime=0)[:-12], r"is damaged \(the file is truncated\)"),
        (gzip.compress(idx(LABELS), mtime=0)[:-1], r"is damaged \(the file is truncated\)"),
        (
            gzip.compress(idx(LABELS) + bytes(10**9 // 20)),
            "should hold 5 bytes after its header and holds more",
        ),
        (gzip.compress(b"") * 10_000 + gzip.compress(idx(LABELS)), "is not an IDX file"),
    ],
    ids=short,
)
def test_damaged_gzip_gives_an_error_message(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_idx(path, 1)
