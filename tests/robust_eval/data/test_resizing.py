"""``folder:DIR?resize=256&crop=224``: the images that torchvision's transforms give."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from robust_eval.core.errors import UserError
from robust_eval.data import load

SIZES = ((40, 30), (31, 50), (33, 33), (25, 24), (64, 20))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for number, (width, height) in enumerate(SIZES):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("query", "resize", "mode"),
    [
        ("resize=28&crop=24", 28, InterpolationMode.BILINEAR),
        ("resize=28&crop=24&interpolation=bicubic", 28, InterpolationMode.BICUBIC),
        ("crop=24&resize=24", 24, InterpolationMode.BILINEAR),
        ("resize=20&crop=25", 20, InterpolationMode.BILINEAR),
    ],
)
def test_the_images_are_those_of_torchvision(
    folder: Path, query: str, resize: int, mode: InterpolationMode
) -> None:
    images = load(f"folder:{folder}?{query}")
    crop = images.image_size[0]
    transform = Compose([Resize(resize, mode), CenterCrop(crop)])
    expected = {np.asarray(transform(Image.open(path))).tobytes() for path in folder.rglob("*.png")}
    assert {image.tobytes() for image in images.x_NHWC} == expected


def test_the_name_contains_the_steps_in_one_form(folder: Path) -> None:
    names = {load(f"folder:{folder}?{query}").name for query in ("resize=28&crop=24", "crop=24&resize=28")}
    assert names == {"folder:photos?resize=28&crop=24"}
    assert load(f"folder:{folder}?crop=20").name == "folder:photos?crop=20"
    bicubic = load(f"folder:{folder}?resize=28&crop=24&interpolation=bicubic")
    assert bicubic.name == "folder:photos?resize=28&crop=24&interpolation=bicubic"


def test_a_folder_with_a_question_mark_in_its_name(tmp_path: Path) -> None:
    path = tmp_path / "what?crop=4" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    Image.new("RGB", (6, 6)).save(path)
    assert load(f"folder:{tmp_path / 'what?crop=4'}").image_size == (6, 6)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("size=20", "Unknown argument of folder:"),
        ("resize=20&crop=0", "crop must be a whole number from 1 to 4096, got '0'"),
        ("resize=00100999", "resize must be a whole number from 1 to 4096"),
        ("resize=-3", "resize must be a whole number from 1 to 4096, got '-3'"),
        ("resize=99999999999999999999", "resize must be a whole number from 1 to 4096"),
        ("resize=20&interpolation=area", "Unknown interpolation 'area'"),
        ("resize=20", "Images differ in size: "),
        ("", "Unknown argument of folder:"),
    ],
)
def test_other_arguments_are_refused(folder: Path, query: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        load(f"folder:{folder}?{query}")


def test_a_strip_of_an_image_is_not_enlarged_without_limit(tmp_path: Path) -> None:
    path = tmp_path / "strips" / "a" / "0.png"
    path.parent.mkdir(parents=True)
    Image.new("L", (100_000, 1)).save(path)
    with pytest.raises(UserError, match=r"a/0\.png cannot be read as an image \(resized it has 256x25600000"):
        load(f"folder:{tmp_path / 'strips'}?resize=256&crop=224")
