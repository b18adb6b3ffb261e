from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robust_eval.core.errors import UserError
from robust_eval.data import load, npz

X = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
Y = np.array([0, 2, 1, 2])


class Trap:
    """A pickle that creates a file if it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.path,)


def load_arrays(tmp_path: Path, **arrays: Any) -> Any:
    np.savez(tmp_path / "made.npz", **arrays)
    return load(f"npz:{tmp_path / 'made.npz'}")


def test_colour_and_grey(tmp_path: Path) -> None:
    colour = load_arrays(tmp_path, x=X, y=Y)
    assert np.array_equal(colour.x_NHWC, X)
    assert colour.y_N.dtype == np.int64
    assert colour.class_names == ("0", "1", "2")
    assert load_arrays(tmp_path, x=X[..., 0], y=Y).x_NHWC.shape == (4, 5, 6, 1)


def test_the_name_contains_no_folder(tmp_path: Path) -> None:
    images = load_arrays(tmp_path, x=X, y=Y)
    assert images.name == "npz:made.npz"
    assert images.split == "all"
    assert str(tmp_path) not in repr(images.slice())


def test_class_names_may_be_given(tmp_path: Path) -> None:
    images = load_arrays(tmp_path, x=X, y=Y, class_names=np.array(["a", "b", "c", "d"]))
    assert images.class_names == ("a", "b", "c", "d")
    assert images.all_classes
    assert not load_arrays(tmp_path, x=X, y=Y).all_classes


def test_compressed_archives_and_small_integer_labels(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "made.npz", x=X, y=Y.astype(np.uint8))
    assert load(f"npz:{tmp_path / 'made.npz'}").y_N.tolist() == Y.tolist()


def test_arrays_of_a_split(tmp_path: Path) -> None:
    arrays = {"x_train": X[:3], "y_train": Y[:3, None], "x_test": X[::-1], "y_test": Y[::-1]}
    test = load_arrays(tmp_path, **arrays)
    assert (test.split, test.y_N.tolist()) == ("test", [2, 1, 2, 0])
    assert np.array_equal(test.x_NHWC, X[::-1])
    train = load(f"npz:{tmp_path / 'made.npz'}", split="train")
    assert (train.split, train.y_N.tolist()) == ("train", [0, 2, 1])
    with pytest.raises(UserError, match=r"lacks the arrays x_val and y_val \(it has x_test, x_train"):
        load(f"npz:{tmp_path / 'made.npz'}", split="val")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_of_8_bits_are_read_exactly(tmp_path: Path, kind: type) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = load_arrays(tmp_path, x=(every / 255).astype(kind), y=Y[:1])
    assert np.array_equal(images.x_NHWC, every)
    assert images.name == "npz:made.npz"


def test_other_floats_are_rounded_and_the_name_says_so(tmp_path: Path) -> None:
    floats = np.random.default_rng(0).random((4, 5, 6, 3), dtype=np.float32)
    images = load_arrays(tmp_path, x=floats, y=Y)
    assert images.name == "npz:made.npz?rounded=8bit"
    assert np.array_equal(images.x_NHWC, np.rint(floats * 255).astype(np.uint8))


def test_real_file(data_root: Path) -> None:
    images = load(f"npz:{data_root / 'cifar10-lossless' / 'test_first_846.npz'}")
    assert (images.n, images.image_size, images.classes) == (846, (32, 32), 10)
    assert images.y_N[:4].tolist() == [3, 8, 8, 0]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (X.astype(np.float64), r"x in made.npz is float64, not uint8. Its values lie in 0..255"),
        ((X / 255.0 - 0.5) / 0.25, r"Its values run from -2 to 2: undo the normalisation"),
        (X.astype(np.int64), r"x in made.npz is int64, not uint8"),
        (np.full((4, 5, 6, 3), np.nan), r"x in made.npz contains NaN or infinity"),
        (X > 9, "is bool, not uint8. Save 8-bit pixels"),
        (X[0, 0], r"x in made.npz has shape \(6, 3\); expected \(N, H, W, C\) or \(N, H, W\)"),
        (X[:0], r"none of them 0"),
        (X.transpose(0, 3, 1, 2), r"6 channels; expected 1 to 4. It looks like \(N, C, H, W\)"),
        (np.zeros((4, 9, 9, 7), np.uint8), r"so 7 channels; expected 1 to 4.$"),
    ],
)
def test_wrong_images_give_an_error_message(tmp_path: Path, x: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_arrays(tmp_path, x=x, y=Y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y[:3], r"y in made.npz has shape \(3,\) for 4 images; expected \(4,\)"),
        (np.eye(3, dtype=int)[Y], r"as one-hot labels have. Save y.argmax\(1\)"),
        (Y.astype(np.float32), "y in made.npz is float32; expected whole numbers"),
        (Y - 1, "y in made.npz has labels from -1 to 1; number the classes from 0"),
        (Y + 2**40, "has the label 1099511627778; labels are class indices, at most 100,000"),
        (np.array(["a", "b", "c", "c"]), "expected whole numbers"),
    ],
)
def test_wrong_labels_give_an_error_message(tmp_path: Path, y: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_arrays(tmp_path, x=X, y=y)


def test_labels_beyond_the_class_names_give_an_error_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has the label 2, but class_names has 2 entries"):
        load_arrays(tmp_path, x=X, y=Y, class_names=np.array(["a", "b"]))
    with pytest.raises(UserError, match="class_names in made.npz must be a list of strings"):
        load_arrays(tmp_path, x=X, y=Y, class_names=np.arange(3))


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lacks the arrays x and y \(it has images, labels\)"):
        load_arrays(tmp_path, images=X, labels=Y)
    with pytest.raises(UserError, match=r"lacks the array y \(it has x\)"):
        load_arrays(tmp_path, x=X)


@pytest.mark.parametrize("name", ["x", "y", "class_names"])
def test_python_objects_are_refused_without_unpickling(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "ran"
    arrays: dict[str, Any] = {"x": X, "y": Y, name: np.array([Trap(trace)], dtype=object)}
    with pytest.raises(UserError, match="holds Python objects, which could run code"):
        load_arrays(tmp_path, **arrays)
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"\x80\x04N."])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "made.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not an .npz archive. Write one with numpy.savez"):
        load(f"npz:{path}")


def test_a_missing_file_gives_an_error_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist. Write npz:FILE with arrays x and y"):
        load(f"npz:{tmp_path / 'none.npz'}")


def test_damaged_content_gives_an_error_message(tmp_path: Path) -> None:
    np.savez(tmp_path / "made.npz", x=X, y=Y)
    data = bytearray((tmp_path / "made.npz").read_bytes())
    data[300] ^= 255
    (tmp_path / "made.npz").write_bytes(bytes(data))
    with pytest.raises(UserError, match="is damaged"):
        load(f"npz:{tmp_path / 'made.npz'}")


def test_a_wrong_header_gives_an_error_message(tmp_path: Path) -> None:
    np.savez(tmp_path / "intact.npz", x=X, y=Y)
    with (
        zipfile.ZipFile(tmp_path / "intact.npz") as intact,
        zipfile.ZipFile(tmp_path / "made.npz", "w") as made,
    ):
        made.writestr("x.npy", intact.read("x.npy").replace(b"(4, 5, 6, 3)", b"(9, 5, 6, 3)"))
        made.writestr("y.npy", intact.read("y.npy"))
    with pytest.raises(UserError, match="is damaged"):
        load(f"npz:{tmp_path / 'made.npz'}")


def test_a_zip_bomb_is_refused_before_reading(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "made.npz", x=np.zeros((9_000_000, 3, 3), np.uint8), y=Y)
    with pytest.raises(UserError, match="made.npz unpacks to more than 50 times its size"):
        load(f"npz:{tmp_path / 'made.npz'}")


def test_arrays_beyond_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "LARGEST_BYTES", 2000)
    np.savez_compressed(tmp_path / "made.npz", x=np.zeros((9, 32, 32), np.uint8), y=np.zeros(9, int))
    with pytest.raises(UserError, match="holds larger arrays than are read of such a file"):
        load(f"npz:{tmp_path / 'made.npz'}")
