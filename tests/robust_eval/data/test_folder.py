from __future__ import annotations

import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robust_eval import data
from robust_eval.core import pixels
from robust_eval.core.errors import UserError
from robust_eval.data import SHUFFLED, load


def picture(path: Path, value: int = 0, *, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(
        mode, size, value if mode in {"L", "P", "I;16"} else (value, 0, 0, *[9] * (len(mode) - 3))
    ).save(path)


def test_classes_are_the_sorted_folder_names(tmp_path: Path) -> None:
    for index, name in enumerate(("dog", "ant", "cat")):
        for number in range(3):
            picture(tmp_path / name / f"{number}.png", 10 * index + number)
    images = load(f"folder:{tmp_path}")
    assert images.class_names == ("ant", "cat", "dog")
    assert images.x_NHWC.shape == (9, 4, 6, 3)
    assert images.name == f"folder:{tmp_path.name}"
    assert images.split == "all"
    assert images.order == SHUFFLED
    red_to_class = {0: 2, 1: 0, 2: 1}
    assert [red_to_class[red // 10] for red in images.x_NHWC[:, 0, 0, 0]] == images.y_N.tolist()


def test_the_split_selects_the_subfolder_and_both_splits_share_class_ids(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / "train" / "ant" / f"{number}.png", 1)
        picture(tmp_path / "train" / "cat" / f"{number}.png", 2)
        picture(tmp_path / "test" / "cat" / f"{number}.png", 3)
    test, train = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", split="train")
    assert test.class_names == train.class_names == ("ant", "cat")
    assert (test.split, train.split) == ("test", "train")
    assert test.y_N.tolist() == [1, 1]
    assert train.n == 4


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png")
    picture(tmp_path / "bus" / "a.png")
    assert load(f"folder:{tmp_path}").class_names == ("bus", "train")


def test_grey_images_stay_grey(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", 7, mode="L")
    picture(tmp_path / "b" / "1.jpg", 7, mode="L")
    assert load(f"folder:{tmp_path}").x_NHWC.shape == (2, 4, 6, 1)


def test_grey_among_colour_is_repeated_and_alpha_dropped(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", 7, mode="L")
    picture(tmp_path / "b" / "1.png", 7, mode="RGBA")
    images = load(f"folder:{tmp_path}")
    assert images.x_NHWC[:, 0, 0].tolist() == [[7, 7, 7], [7, 0, 0]]


def test_hidden_files_and_archive_leftovers_are_skipped(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "deep" / "1.PNG")
    picture(tmp_path / "__MACOSX" / "1.png")
    picture(tmp_path / ".hidden" / "1.png")
    (tmp_path / "a" / "._1.png").write_bytes(b"resource fork")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    images = load(f"folder:{tmp_path}")
    assert images.class_names == ("a",)
    assert images.n == 1


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", size=(6, 4))
    picture(tmp_path / "b" / "2.png", size=(5, 4))
    with pytest.raises(
        UserError, match=r"a/1.png is 6x4 and b/2.png is 5x4. Resize and crop them: folder:DIR"
    ):
        load(f"folder:{tmp_path}")


def test_an_unreadable_image_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    (tmp_path / "a" / "2.png").write_bytes((tmp_path / "a" / "1.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"a/2.png is not an image in one of the formats"):
        load(f"folder:{tmp_path}")


def test_images_with_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", 1000, mode="I;16")
    with pytest.raises(UserError, match=r"a/1.png has more than 8 bits per channel"):
        load(f"folder:{tmp_path}")


def test_a_missing_folder_gives_an_error_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder. Write folder:DIR with one subfolder per class"):
        load(f"folder:{tmp_path}/nowhere")


def test_an_empty_folder_gives_an_error_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no images: expected files such as"):
        load(f"folder:{tmp_path}")


def test_a_missing_split_gives_an_error_message(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "1.png")
    with pytest.raises(UserError, match="has a train folder but no test folder"):
        load(f"folder:{tmp_path}")


@pytest.mark.slow
def test_ten_thousand_jpegs_take_seconds_of_processor_time(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for label in range(10):
        (tmp_path / str(label)).mkdir()
        for number in range(1000):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / str(label) / f"{number}.jpg")
    started = time.process_time()
    images = load(f"folder:{tmp_path}")
    assert images.n == 10_000
    assert time.process_time() - started < 20


def test_16_bit_colour_images_are_refused(tmp_path: Path) -> None:
    """Pillow would keep the upper 8 bits of each value: 255 of 65,535 would become 0."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    pixels = b"".join(b"\0" + struct.pack(">12H", *[255] * 12) for _ in range(4))
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(pixels)), chunk(b"IEND", b""))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.raises(UserError, match="a/1.png has more than 8 bits per channel"):
        load(f"folder:{tmp_path}")


def test_a_postscript_file_with_the_name_of_an_image_is_refused(tmp_path: Path) -> None:
    """Pillow would pass it to Ghostscript, which runs it."""
    picture(tmp_path / "a" / "1.png")
    content = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n{} loop\n"
    (tmp_path / "a" / "2.png").write_text(content)
    with pytest.raises(UserError, match="a/2.png is not an image in one of the formats BMP, GIF, JPEG"):
        load(f"folder:{tmp_path}")


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "a" / "1.png")
    picture(tmp_path / "other" / "a" / "2.png")
    for link, target, message in (
        ("b", "/", "b is a link out of the folder data. Copy what it names."),
        ("a/deep", tmp_path / "other", "a/deep is a link out of the folder data"),
        ("a/2.png", tmp_path / "other" / "a" / "2.png", "a/2.png is a link out of the folder data"),
        ("test", tmp_path / "other", "test is a link out of the folder data"),
        ("b", "a", "b is a link to a folder. Copy that folder."),
        ("a/loop", "..", "a/loop is a link to a folder"),
        ("a/3.png", "nowhere.png", "a/3.png is a link that leads nowhere. Remove it."),
        ("a/4.png", "4.png", "a/4.png is a link that leads nowhere"),
    ):
        path = tmp_path / "data" / link
        path.symlink_to(target)
        with pytest.raises(UserError, match=message):
            load(f"folder:{tmp_path / 'data'}")
        path.unlink()


def test_the_folder_itself_and_links_within_it_may_be_links(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "a" / "1.png", 7)
    (tmp_path / "data" / "a" / "2.png").symlink_to("1.png")
    (tmp_path / "link").symlink_to("data")
    assert load(f"folder:{tmp_path / 'link'}").x_NHWC[:, 0, 0, 0].tolist() == [7, 7]


@pytest.mark.timeout(20)
def test_pipes_and_folders_with_the_name_of_an_image(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "x.png" / "1.png")
    assert load(f"folder:{tmp_path}").n == 1
    os.mkfifo(tmp_path / "a" / "2.png")
    with pytest.raises(UserError, match="a/2.png is a pipe or a device. Copy its content to a file."):
        load(f"folder:{tmp_path}")


def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff")).mkdir()
    with pytest.raises(UserError, match="bad\ufffd in .* has a name that is not valid UTF-8 text"):
        load(f"folder:{tmp_path}")


def test_many_images_are_read_when_they_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        picture(tmp_path / "a" / f"{number}.png", 10 * number, mode="RGB" if number else "L")
        picture(tmp_path / "b" / f"{number}.png", 100 + number)
    held = load(f"folder:{tmp_path}")
    monkeypatch.setattr(pixels, "HELD_BYTES", 0)
    stored = load(f"folder:{tmp_path}")
    assert isinstance(stored.x_NHWC, pixels.StoredPixels)
    assert stored.x_NHWC.shape == held.x_NHWC.shape == (10, 4, 6, 3)
    assert np.array_equal(stored.x_NHWC, held.x_NHWC)
    assert np.array_equal(stored.take(7).x_NHWC[2:4], held.x_NHWC[2:4])
    assert np.array_equal(stored.x_NHWC[3], held.x_NHWC[3])
    assert stored.slice() == held.slice()
    assert np.array_equal(stored.images()[0][torch.tensor([8, 1])], held.tensors()[0][[8, 1]])
    (tmp_path / "b" / "4.png").write_bytes((tmp_path / "b" / "4.png").read_bytes()[:48])
    assert load(f"folder:{tmp_path}").n == 10
    with pytest.raises(UserError, match="b/4.png cannot be read as an image"):
        load(f"folder:{tmp_path}").slice()


def test_images_that_cannot_all_be_in_memory_are_refused_where_they_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "HELD_BYTES", 0)
    monkeypatch.setattr(data, "LARGEST_BYTES", 3 * 6 * 4)
    picture(tmp_path / "a" / "1.png")
    picture(tmp_path / "a" / "2.png")
    images = load(f"folder:{tmp_path}")
    assert images.take(1).tensors()[0].shape == (1, 3, 4, 6)
    with pytest.raises(UserError, match="has more than 0 GiB of pixels, which this needs in memory"):
        images.tensors()


def test_a_val_folder_takes_the_place_of_a_test_folder(tmp_path: Path) -> None:
    for part in ("train", "val"):
        picture(tmp_path / part / "ant" / "1.png", len(part))
    assert load(f"folder:{tmp_path}").split == "val"
    assert load(f"folder:{tmp_path}").x_NHWC[0, 0, 0, 0] == 3
    assert load(f"folder:{tmp_path}", split="val").split == "val"
    assert load(f"folder:{tmp_path}", split="train").split == "train"
