"""ImageSet: properties, fingerprint, order, and dataset specs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robust_eval.core.discovery import module, module_ids
from robust_eval.core.errors import UserError
from robust_eval.data import SHUFFLED, ImageSet, default_root, load


def small(n: int = 6, seed: int = 0) -> ImageSet:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (n, 4, 5, 3), dtype=np.uint8)
    return ImageSet("made-up", "test", pixels, np.arange(n, dtype=np.int64) % 3, ("a", "b", "c"))


def test_shape_properties() -> None:
    images = small()
    assert (images.n, images.channels, images.image_size, images.classes) == (6, 3, (4, 5), 3)


def test_tensors_are_exact_levels_in_the_unit_range() -> None:
    images = small()
    x_NCHW, y_N = images.tensors()
    assert x_NCHW.shape == (6, 3, 4, 5)
    assert x_NCHW.is_contiguous()
    assert (x_NCHW * 255).round().byte().permute(0, 2, 3, 1).numpy().tolist() == images.x_NHWC.tolist()
    assert float(x_NCHW.max()) == images.x_NHWC.max() / np.float32(255)
    assert y_N.tolist() == [0, 1, 2, 0, 1, 2]


def test_tensors_do_not_share_memory_with_the_record() -> None:
    images = small()
    x_NCHW, y_N = images.tensors()
    x_NCHW.zero_()
    y_N.zero_()
    assert images.x_NHWC.max() > 0
    assert images.y_N.max() == 2


def test_take_is_the_first_n() -> None:
    images = small()
    assert np.array_equal(images.take(2).x_NHWC, images.x_NHWC[:2])
    assert images.take(6).slice() == images.slice()


def test_a_network_may_have_more_classes_than_a_source_without_class_names() -> None:
    named = small()
    nameless = replace(named, class_names=("0", "1", "2"), all_classes=False)
    assert [named.fits(outputs) for outputs in (2, 3, 4)] == [False, True, False]
    assert [nameless.fits(outputs) for outputs in (2, 3, 4)] == [False, True, True]
    assert nameless.for_outputs(5).class_names == ("0", "1", "2", "3", "4")
    assert nameless.for_outputs(5).slice().fingerprint == named.slice().fingerprint
    assert named.for_outputs(5).class_names == named.class_names


@pytest.mark.parametrize("n", [0, -1])
def test_take_needs_at_least_one(n: int) -> None:
    with pytest.raises(UserError, match=f"at least 1, got {n}"):
        small().take(n)


def test_take_refuses_more_images_than_there_are() -> None:
    with pytest.raises(
        UserError, match=r"Asked for 7 examples, but made-up \(test\) has 6. Ask for 6 or fewer"
    ):
        small().take(7)


def test_fingerprint_covers_pixels_and_labels() -> None:
    images = small()
    same = small()
    pixel = small()
    pixel.x_NHWC[5, 3, 4, 2] ^= 1
    label = small()
    label.y_N[5] = 0
    flat = ImageSet("made-up", "test", images.x_NHWC.reshape(6, 5, 4, 3), images.y_N, images.class_names)
    prints = [item.slice().fingerprint for item in (images, pixel, label, flat, images.take(5))]
    assert same.slice().fingerprint == prints[0]
    assert len(set(prints)) == 5
    assert all(len(text) == 64 for text in prints)


def test_fingerprint_does_not_depend_on_the_memory_layout() -> None:
    images = small()
    turned = np.asfortranarray(images.x_NHWC)
    other = ImageSet("made-up", "test", turned, images.y_N, images.class_names)
    assert other.slice().fingerprint == images.slice().fingerprint


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnsit", "Unknown dataset 'mnsit'. Did you mean mnist?"),
        ("cifar-10", "Unknown dataset 'cifar-10'. Did you mean cifar10?"),
        ("digits:3", "digits takes no argument: write digits without the colon."),
        ("folder", "folder needs an argument: write folder:DIR."),
        ("npz:", "npz needs an argument: write npz:FILE."),
        ("images.npz", "'images.npz' is a file name. Did you mean npz:images.npz?"),
        ("nzp:images.npz", "Unknown dataset 'nzp'. Did you mean npz?"),
    ],
)
def test_a_wrong_spec_gives_an_error_message(spec: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load(spec)
    assert str(error.value) == message


def test_a_bare_folder_gives_an_error_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"Did you mean folder:{tmp_path}"):
        load(str(tmp_path))


def test_a_wrong_split_gives_an_error_message() -> None:
    with pytest.raises(UserError, match="Unknown split 'tets'. Did you mean test"):
        load("digits", split="tets")  # type: ignore[arg-type]


def test_every_dataset_file_has_the_interface() -> None:
    for name in module_ids("robust_eval.data"):
        dataset = module("robust_eval.data", name)
        assert dataset.ARGUMENT is None or dataset.ARGUMENT.isupper(), name
        assert callable(dataset.load), name
        assert dataset.__doc__, name


def test_default_root_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROBUST_EVAL_DATA", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("ROBUST_EVAL_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_root() == tmp_path / ".cache" / "robust-eval"


def save(path: Path, labels: list[int]) -> str:
    x_NHW = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((1, 2, 2), np.uint8)
    np.savez(path, x=x_NHW, y=np.array(labels))
    return f"npz:{path}"


@pytest.mark.parametrize(
    "labels",
    [
        [0] * 10 + [1] * 10,
        [1] * 10 + [0] * 10,
        [2] * 8 + [0] * 8 + [1] * 8,
        # Two sorted files, concatenated.
        [*([0] * 10 + [1] * 10), *([0] * 10 + [1] * 10)],
    ],
)
def test_a_source_sorted_by_class_is_shuffled(tmp_path: Path, labels: list[int]) -> None:
    spec = save(tmp_path / "a.npz", labels)
    first, second = load(spec), load(spec)
    assert first.order == SHUFFLED
    assert len(set(first.take(8).y_N)) > 1
    assert sorted(first.y_N) == sorted(labels)
    assert [labels[pixel] for pixel in first.x_NHWC[:, 0, 0, 0]] == first.y_N.tolist()
    assert first.slice() == second.slice()


# In random order two very uneven classes also form few runs of equal labels, but no fewer than by chance.
RARE = [int(k) for k in np.random.default_rng(0).random(300) < 0.03]


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 1, 2, 3], [0, 0, 0], [0], [0, 0, 1, 1, 0, 0], RARE])
def test_other_sources_keep_their_order(tmp_path: Path, labels: list[int]) -> None:
    images = load(save(tmp_path / "a.npz", labels))
    assert images.order == "stored"
    assert images.y_N.tolist() == labels


def test_the_shuffle_never_changes(tmp_path: Path) -> None:
    """Published fingerprints depend on this order."""
    images = load(save(tmp_path / "a.npz", [0] * 5 + [1] * 5))
    assert images.x_NHWC[:, 0, 0, 0].tolist() == [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]
