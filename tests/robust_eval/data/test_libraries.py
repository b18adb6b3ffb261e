"""torchvision:NAME and hf:NAME, on small files in the formats of the libraries."""

from __future__ import annotations

import io
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robust_eval.core import pixels
from robust_eval.core.errors import UserError
from robust_eval.data import load

X = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
Y = np.array([4, 0, 9, 9, 1], dtype=np.uint8)


@pytest.fixture
def fashion(tmp_path: Path) -> Path:
    """The unpacked files of FashionMNIST."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 5), ("t10k", 3)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, n, 28, 28) + X[:n].tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, n) + Y[:n].tobytes())
    return tmp_path


def test_a_dataset_of_torchvision(fashion: Path) -> None:
    images = load("torchvision:FashionMNIST", root=fashion)
    assert (images.name, images.split, images.classes) == ("torchvision:FashionMNIST", "test", 10)
    assert np.array_equal(images.x_NHWC, X[:3, ..., None])
    assert images.y_N.tolist() == [4, 0, 9]
    assert images.class_names[9] == "Ankle boot"
    assert load("torchvision:FashionMNIST", root=fashion, split="train").n == 5


def test_it_is_resized_and_its_name_says_so(fashion: Path) -> None:
    images = load("torchvision:FashionMNIST?resize=14&crop=12", root=fashion)
    assert images.name == "torchvision:FashionMNIST?resize=14&crop=12"
    expected = Image.fromarray(X[0]).resize((14, 14), Image.Resampling.BILINEAR).crop((1, 1, 13, 13))
    assert np.array_equal(images.x_NHWC[0, ..., 0], np.asarray(expected))


def test_wrong_names_and_splits_of_torchvision(fashion: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match="Unknown dataset of torchvision 'FashionMnist'. Did you mean FashionMNIST"
    ):
        load("torchvision:FashionMnist", root=fashion)
    with pytest.raises(UserError, match="torchvision:FashionMNIST has no split val. Use test or train"):
        load("torchvision:FashionMNIST", root=fashion, split="val")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(UserError, match="torchvision:KMNIST is not in .* and could not be downloaded"):
        load("torchvision:KMNIST", root=fashion)


def png(value: int, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    package = pytest.importorskip("datasets")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(package.config, "HF_HUB_OFFLINE", True)
    return package


def parquet(datasets, folder: Path, rows: list[bytes], labels: list[int], part: str = "test") -> None:
    features = datasets.Features(
        {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["ant", "bee", "cat"])}
    )
    cells = [{"bytes": content, "path": None} for content in rows]
    table = datasets.Dataset.from_dict({"picture": cells, "kind": labels}, features=features)
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / f"{part}-00000-of-00001.parquet")


def test_a_table_of_the_hub(datasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(datasets, tmp_path / "small", [png(10), png(20), png(30, "L"), png(40)], [2, 0, 1, 0])
    images = load(f"hf:{tmp_path / 'small'}")
    assert (images.name, images.split, images.class_names) == ("hf:small", "test", ("ant", "bee", "cat"))
    assert images.y_N.tolist() == [2, 0, 1, 0]
    assert images.x_NHWC.shape == (4, 4, 6, 3)
    assert images.x_NHWC[:, 0, 0].tolist() == [[10, 0, 0], [20, 0, 0], [30, 30, 30], [40, 0, 0]]
    monkeypatch.setattr(pixels, "HELD_BYTES", 0)
    assert load(f"hf:{tmp_path / 'small'}").slice() == images.slice()
    assert load(f"hf:{tmp_path / 'small'}?resize=2&crop=2").name == "hf:small?resize=2&crop=2"


def test_a_folder_of_images_of_the_hub(datasets, tmp_path: Path) -> None:
    for part, value in (("train", 1), ("validation", 2)):
        for label in ("ant", "bee"):
            (tmp_path / "pictures" / part / label).mkdir(parents=True)
            (tmp_path / "pictures" / part / label / "1.png").write_bytes(png(value))
    images = load(f"hf:{tmp_path / 'pictures'}")
    assert (images.split, images.class_names, images.x_NHWC[0, 0, 0, 0]) == ("val", ("ant", "bee"), 2)
    assert load(f"hf:{tmp_path / 'pictures'}", split="train").x_NHWC[0, 0, 0, 0] == 1


def test_wrong_tables_of_the_hub(datasets, tmp_path: Path) -> None:
    parquet(datasets, tmp_path / "a", [png(10), png(20, size=(5, 4))], [2, 0])
    with pytest.raises(UserError, match="Images of hf:a differ in size: 6x4 and 5x4. Resize and crop them"):
        load(f"hf:{tmp_path / 'a'}")
    with pytest.raises(UserError, match="hf:a has no split train"):
        load(f"hf:{tmp_path / 'a'}", split="train")
    with pytest.raises(UserError, match="Unknown column of hf:a 'kinds'. Did you mean kind"):
        load(f"hf:{tmp_path / 'a'}?label=kinds")
    parquet(datasets, tmp_path / "b", [b"no image"], [2])
    with pytest.raises(UserError, match="Image 0 of hf:b is not an image in one of the formats"):
        load(f"hf:{tmp_path / 'b'}")
    with pytest.raises(UserError, match="hf:nobody/nothing cannot be loaded"):
        load("hf:nobody/nothing")
