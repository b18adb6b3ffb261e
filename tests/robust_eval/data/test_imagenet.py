"""imagenet and tiny-imagenet: folders as in the originals, with few small images."""

from __future__ import annotations

import functools
import hashlib
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from robust_eval.core import pixels
from robust_eval.core.errors import UserError
from robust_eval.data import imagenet, load, tiny_imagenet

WNIDS = [f"n{number:08d}" for number in range(1, 1001)]
IDS = ["n00000900/ILSVRC2012_val_00000002.JPEG", "n00000003/ILSVRC2012_val_00000001.JPEG"]


def photo(path: Path, size: tuple[int, int], seed: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    image = Image.fromarray(values).resize(size).convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return Image.open(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A validation folder of three images, of which two are RobustBench's."""
    for wnid in WNIDS:
        (tmp_path / "imagenet" / "val" / wnid).mkdir(parents=True)
    for seed, name in enumerate([*IDS, "n00000003/ILSVRC2012_val_00000007.JPEG"]):
        photo(tmp_path / "imagenet" / "val" / name, (320, 264), seed, "L" if seed == 1 else "RGB")
    package = tmp_path / "package" / "robustbench"
    (package / "helper_files").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "helper_files" / "imagenet_test_image_ids.txt").write_text("\n".join(IDS))
    monkeypatch.syspath_prepend(str(package.parent))
    return tmp_path


def expected(path: Path, resize: int, crop: int, interpolation: str) -> np.ndarray:
    """As RobustBench's preprocessing."""
    mode = transforms.InterpolationMode(interpolation)
    steps = transforms.Compose([transforms.Resize(resize, mode), transforms.CenterCrop(crop)])
    return np.asarray(steps(Image.open(path).convert("RGB")))


def test_the_images_of_robustbench_are_the_default(root: Path) -> None:
    images = load("imagenet", root=root)
    assert (images.name, images.split, images.n, images.classes) == ("imagenet", "test", 2, 1000)
    assert images.y_N.tolist() == [899, 2]
    assert images.order == "stored"
    for image, name in zip(images.x_NHWC, IDS, strict=True):
        assert np.array_equal(image, expected(root / "imagenet" / "val" / name, 256, 224, "bilinear"))
    assert load("imagenet", root=root / "imagenet").slice() == images.slice()


@pytest.mark.parametrize(
    ("options", "steps", "name"),
    [
        ("interpolation=bicubic", (256, 224, "bicubic"), "resize=256&crop=224&interpolation=bicubic"),
        ("resize=232&crop=200", (232, 200, "bilinear"), "resize=232&crop=200"),
    ],
)
def test_other_steps_are_part_of_the_name(
    root: Path, options: str, steps: tuple[int, int, str], name: str
) -> None:
    images = load(f"imagenet?{options}", root=root)
    assert images.name == f"imagenet?{name}"
    assert np.array_equal(images.x_NHWC[0], expected(root / "imagenet" / "val" / IDS[0], *steps))


def test_val_is_the_whole_folder(root: Path) -> None:
    images = load("imagenet", root=root, split="val")
    assert (images.split, images.n, sorted(images.y_N.tolist())) == ("val", 3, [2, 2, 899])


def test_many_images_are_not_decoded_before_they_are_chosen(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "HELD_BYTES", 0)
    (root / "imagenet" / "val" / IDS[1]).write_bytes(b"damaged")
    assert load("imagenet", root=root).take(1).slice().n == 1


def test_wrong_folders_give_an_error_message(root: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="imagenet is not in .*: expected .*val with one folder of images per"
    ):
        load("imagenet", root=tmp_path / "empty")
    with pytest.raises(UserError, match="imagenet needs a crop, because its images differ in size"):
        load("imagenet?resize=256", root=root)
    with pytest.raises(UserError, match="imagenet takes no argument: write imagenet without the colon"):
        load("imagenet:val", root=root)
    (root / "imagenet" / "val" / IDS[0]).unlink()
    with pytest.raises(UserError, match="00000002.JPEG is missing, one of RobustBench's 5,000 images"):
        load("imagenet", root=root)
    (root / "imagenet" / "val" / WNIDS[0]).rmdir()
    with pytest.raises(
        UserError, match="val has 999 class folders, ImageNet has 1,000. Sort the images into"
    ):
        load("imagenet", root=root)


def test_without_the_list_of_robustbench_the_message_names_its_extra(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"\(all 50,000: --split val\) needs robustbench, which is not installed"
    ):
        load("imagenet", root=root)
    assert load("imagenet", root=root, split="val").n == 3


def test_the_installed_list_has_5000_different_images() -> None:
    try:
        names = imagenet.robustbench_ids()
    except UserError:
        pytest.skip("robustbench is not installed")
    assert len(set(names)) == 5000


def tiny(folder: Path) -> Path:
    """The folder of Tiny ImageNet with two classes."""
    top = folder / "tiny-imagenet-200"
    for seed, wnid in enumerate(["n02", "n01"]):
        for number in range(2):
            photo(top / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", (64, 64), 2 * seed + number)
    for number, mode in enumerate(["RGB", "L", "RGB"]):
        photo(top / "val" / "images" / f"val_{number}.JPEG", (64, 64), number, mode)
    (top / "wnids.txt").write_text("n02\nn01\n")
    boxes = "\t0\t0\t62\t62\n"
    rows = zip((0, 1, 2), ("n02", "n01", "n02"), strict=True)
    (top / "val" / "val_annotations.txt").write_text(
        "".join(f"val_{number}.JPEG\t{wnid}{boxes}" for number, wnid in rows)
    )
    return top


def test_tiny_imagenet_is_read_as_unpacked(tmp_path: Path) -> None:
    top = tiny(tmp_path)
    images = load("tiny-imagenet", root=tmp_path)
    assert (images.name, images.split, images.class_names) == ("tiny-imagenet", "test", ("n01", "n02"))
    assert images.x_NHWC.shape == (3, 64, 64, 3)
    assert images.y_N.tolist() == [1, 0, 1]
    first = Image.open(top / "val" / "images" / "val_0.JPEG")
    assert np.array_equal(images.x_NHWC[0], np.asarray(first))
    assert load("tiny-imagenet", root=tmp_path, split="val").slice() == images.slice()
    train = load("tiny-imagenet", root=top, split="train")
    assert (train.split, sorted(train.y_N.tolist())) == ("train", [0, 0, 1, 1])


def test_sorted_validation_images_of_tiny_imagenet_are_read(tmp_path: Path) -> None:
    top = tiny(tmp_path)
    for number, wnid in ((0, "n02"), (1, "n01"), (2, "n02")):
        (top / "val" / wnid).mkdir(exist_ok=True)
        (top / "val" / "images" / f"val_{number}.JPEG").rename(top / "val" / wnid / f"val_{number}.JPEG")
    (top / "val" / "images").rmdir()
    assert sorted(load("tiny-imagenet", root=tmp_path).y_N.tolist()) == [0, 1, 1]


def test_names_in_the_lists_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    table = tiny(tmp_path) / "val" / "val_annotations.txt"
    table.write_text("../../secret.png\tn01\n")
    with pytest.raises(UserError, match="val_annotations.txt is not the list of the validation images"):
        load("tiny-imagenet", root=tmp_path)
    table.write_text("val_0.JPEG\tn03\n")
    with pytest.raises(UserError, match="has images of n03, not those of its wnids.txt"):
        load("tiny-imagenet", root=tmp_path)


@pytest.mark.parametrize("right", [True, False])
def test_tiny_imagenet_is_downloaded_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    top = tiny(tmp_path / "made")
    archive = tmp_path / "served" / "tiny-imagenet-200.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as file:
        for path in top.rglob("*.*"):
            file.write(path, path.relative_to(top.parent))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(archive.parent))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/tiny-imagenet-200.zip"
    monkeypatch.setattr(tiny_imagenet, "URL", address)
    if right:
        monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    try:
        if right:
            assert load("tiny-imagenet", root=tmp_path / "data").n == 3
        else:
            with pytest.raises(UserError, match="tiny-imagenet is not in .* and could not be downloaded"):
                load("tiny-imagenet", root=tmp_path / "data")
    finally:
        server.shutdown()
        server.server_close()
