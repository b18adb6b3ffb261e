"""cifar10-c, cifar100-c and imagenet-c: small files in the formats of the archives, and the mCE."""

from __future__ import annotations

import functools
import hashlib
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robust_eval.core.corruptions import ALEXNET_ERROR, CORRUPTIONS
from robust_eval.core.errors import UserError
from robust_eval.data import cifar10_c, imagenet, load
from robust_eval.data._corrupted import CifarSource
from robust_eval.results import corruptions
from robust_eval.results.corruptions import corruption_errors

LABELS = np.array([3, 8, 1, 0], dtype=np.uint8)


def cifar(folder: Path, names: tuple[str, ...] = (*CORRUPTIONS, "spatter")) -> dict[str, np.ndarray]:
    """Files of four images per severity."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8) for name in names}
    for name, array in images.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "labels.npy", np.tile(LABELS, 5))
    return images


@pytest.mark.parametrize("dataset", ["cifar10-c", "cifar100-c"])
def test_one_corruption_and_severity(tmp_path: Path, dataset: str) -> None:
    stored = cifar(tmp_path / dataset.upper().replace("CIFAR", "CIFAR-"))
    images = load(f"{dataset}?corruption=fog&severity=3", root=tmp_path)
    assert np.array_equal(images.x_NHWC, stored["fog"][8:12])
    assert images.y_N.tolist() == LABELS.tolist()
    assert (images.name, images.split) == (f"{dataset}?corruption=fog&severity=3", "test")
    assert images.classes == (10 if dataset == "cifar10-c" else 100)
    assert load(f"{dataset}?severity=3&corruption=fog", root=tmp_path).slice() == images.slice()
    assert load(f"{dataset}?corruption=spatter", root=tmp_path).n == 20


def test_a_whole_set_is_ordered_by_corruption_and_severity(tmp_path: Path) -> None:
    stored = cifar(tmp_path / "CIFAR-10-C")
    images = load("cifar10-c", root=tmp_path)
    assert images.name == "cifar10-c"
    assert np.array_equal(images.x_NHWC, np.concatenate([stored[name] for name in CORRUPTIONS]))
    assert images.y_N.tolist() == np.tile(LABELS, 75).tolist()
    fifth = load("cifar10-c?severity=5", root=tmp_path)
    assert np.array_equal(fifth.x_NHWC, np.concatenate([stored[name][16:] for name in CORRUPTIONS]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("corruption=fogg", "Unknown corruption 'fogg'. Did you mean fog"),
        ("severity=6", "severity must be a whole number from 1 to 5, got '6'"),
        ("level=3", "Unknown option of cifar10-c 'level'"),
        ("fog", "Unknown option of cifar10-c 'fog'"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(f"cifar10-c?{options}", root=tmp_path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    cifar(tmp_path / "CIFAR-10-C")
    file = tmp_path / "CIFAR-10-C" / "fog.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="fog.npy holds uint8 of shape .* Unpack the archive again"):
        load("cifar10-c?corruption=fog", root=tmp_path)
    np.save(file, np.zeros((20, 32, 32, 3), np.float32))
    with pytest.raises(UserError, match=r"is larger than|fog.npy holds float32"):
        load("cifar10-c?corruption=fog", root=tmp_path)
    file.unlink()
    with pytest.raises(UserError, match="fog.npy does not exist"):
        load("cifar10-c?corruption=fog", root=tmp_path)


def test_the_archive_is_downloaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(tmp_path / "made" / "CIFAR-10-C", ("fog",))
    archive = tmp_path / "served" / "CIFAR-10-C.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as file:
        file.add(tmp_path / "made" / "CIFAR-10-C", "CIFAR-10-C")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(archive.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/CIFAR-10-C.tar"
    names = cifar10_c.SOURCE.class_names
    try:
        monkeypatch.setattr(cifar10_c, "SOURCE", CifarSource("CIFAR-10-C", url, "0" * 32, names))
        with pytest.raises(UserError, match="cifar10-c is not in .* and could not be downloaded"):
            load("cifar10-c?corruption=fog&severity=1", root=tmp_path / "wrong")
        md5 = hashlib.md5(archive.read_bytes()).hexdigest()
        monkeypatch.setattr(cifar10_c, "SOURCE", CifarSource("CIFAR-10-C", url, md5, names))
        assert load("cifar10-c?corruption=fog&severity=1", root=tmp_path / "right").n == 4
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("category", ["", "weather"])
def test_imagenet_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, category: str) -> None:
    top = tmp_path / "ImageNet-C" / category / "fog" / "3"
    for number in range(1, 1001):
        (top / f"n{number:08d}").mkdir(parents=True)
    ids = ["n00000900/ILSVRC2012_val_00000002.JPEG", "n00000003/ILSVRC2012_val_00000001.JPEG"]
    for value, name in enumerate([*ids, "n00000003/ILSVRC2012_val_00000005.JPEG"]):
        Image.new("RGB", (224, 224), (80 * value, 0, 0)).save(top / name)
    monkeypatch.setattr(imagenet, "robustbench_ids", lambda: ids)
    images = load("imagenet-c?corruption=fog&severity=3", root=tmp_path)
    assert (images.n, images.y_N.tolist(), images.classes) == (2, [899, 2], 1000)
    assert (images.x_NHWC[:, 0, 0, 0] > 40).tolist() == [False, True]
    assert load("imagenet-c?corruption=fog&severity=3", root=tmp_path, split="val").n == 3
    top.rename(top.parent / "1")
    with pytest.raises(UserError, match="2 is missing, a part of imagenet-c"):
        load("imagenet-c?corruption=fog", root=tmp_path)
    with pytest.raises(UserError, match="imagenet-c is not in .*: expected .*snow/1 with one folder"):
        load("imagenet-c?corruption=snow", root=tmp_path)


def result_of(name: str, bits: np.ndarray, order: str = "stored") -> Any:
    text = "".join("1" if bit else "0" for bit in bits)
    data = SimpleNamespace(name=name, n=len(bits), order=order)
    return SimpleNamespace(columns={"clean": SimpleNamespace(robust_bits=text)}, data=data)


def test_the_mce_is_the_mean_error_or_relative_to_alexnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corruptions, "WHOLE", {"cifar10-c": (150,), "imagenet-c": (150,)})
    bits = np.ones(150, dtype=bool)
    bits[:10] = False  # gaussian_noise
    bits[10:15] = False  # half of shot_noise
    errors = corruption_errors(result_of("cifar10-c", bits))
    assert errors is not None
    assert errors.by_corruption["gaussian_noise"] == 1
    assert errors.by_corruption["shot_noise"] == 0.5
    assert errors.mce == errors.mean == pytest.approx(0.1)
    relative = corruption_errors(result_of("imagenet-c", bits))
    assert relative is not None
    expected = (1 / ALEXNET_ERROR["gaussian_noise"] + 0.5 / ALEXNET_ERROR["shot_noise"]) / 15
    assert relative.mce == pytest.approx(expected)
    order = np.random.RandomState(0).permutation(150)
    assert corruption_errors(result_of("imagenet-c", bits[order], "shuffled, seed 0")) == relative
    assert corruption_errors(result_of("cifar10-c", bits[:75])) is None
    assert corruption_errors(result_of("cifar10-c?corruption=fog", bits)) is None
