from __future__ import annotations

import math

import pytest
import torch

from defenses.recipes.sections import Augment
from defenses.training import augmentation
from defenses.training.augmentation import augment, cutout, mixup, random_crop, random_rotation

X = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05


def config(**changes: object) -> Augment:
    values = {"crop_padding": 0, "padding": "zero", "flip": False, "rotation": 0.0, "cutout": 0, "mixup": 0.0}
    return Augment.model_validate(values | changes)


def test_without_augmentation_images_are_unchanged() -> None:
    assert torch.equal(augment(X, config()), X)


def test_a_crop_is_a_window_of_the_padded_image() -> None:
    torch.manual_seed(0)
    for mode in ("zero", "reflect"):
        cropped = random_crop(X, 2, mode)
        padded = torch.nn.functional.pad(X, [2] * 4, mode="constant" if mode == "zero" else "reflect")
        windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
        matches = (windows == cropped[:, None]).flatten(2).all(2)
        assert matches.any(1).all()
        # All 25 windows are possible, and each image draws its own.
        assert len(set(matches.int().argmax(1).tolist())) > 10


def test_padding_wider_than_the_image_falls_back_to_zeros() -> None:
    assert random_crop(X[:, :, :4, :4], 4, "reflect").shape == (40, 3, 4, 4)


def test_about_half_of_the_images_are_flipped() -> None:
    torch.manual_seed(0)
    flipped = augment(X, config(flip=True))
    same = (flipped == X).flatten(1).all(1)
    mirrored = (flipped == X.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 8 < int(mirrored.sum()) < 32


def test_cutout_blackens_one_square_entirely_inside() -> None:
    torch.manual_seed(0)
    black = (cutout(X, 3) == 0).all(1)
    assert (black.flatten(1).sum(1) == 9).all()
    rows, columns = black.any(2), black.any(1)
    assert (rows.sum(1) == 3).all()
    assert (columns.sum(1) == 3).all()
    assert len({tuple(row.tolist()) for row in rows.int()}) > 3
    assert torch.equal(cutout(X, 3)[~(cutout(X, 3) == 0)].shape and X, X)


def test_rotation_is_bounded_and_keeps_the_centre() -> None:
    torch.manual_seed(0)
    dot = torch.zeros(50, 1, 9, 9)
    dot[:, :, 4, 4] = 1.0
    assert torch.equal(random_rotation(dot, 15.0), dot)
    edge = torch.zeros(50, 1, 9, 9)
    edge[:, :, 4, 8] = 1.0
    turned = random_rotation(edge, 15.0).nonzero()
    assert len({tuple(position.tolist()) for position in turned[:, 2:]}) > 1
    assert (turned[:, 2] - 4).abs().max() <= 2


@pytest.mark.parametrize(("height", "width"), [(33, 33), (17, 65), (65, 17)])
def test_rotation_of_images_that_are_not_square(height: int, width: int) -> None:
    """A bar through the centre is rotated by the drawn angle and keeps its length."""
    torch.manual_seed(0)
    bar = torch.zeros(1, 1, height, width)
    half = min(height, width) // 2
    bar[0, 0, height // 2, width // 2 - half : width // 2 + half + 1] = 1.0
    for _ in range(5):
        state = torch.get_rng_state()
        angle = float((torch.rand(1) * 2 - 1) * math.radians(30))
        torch.set_rng_state(state)
        y, x = random_rotation(bar, 30.0)[0, 0].nonzero().double().T
        y, x = y - height // 2, x - width // 2
        found = torch.atan2((x * y).sum() * 2, (x * x - y * y).sum()) / 2
        assert abs(abs(float(found)) - abs(angle)) < math.radians(2)
        assert float((x * x + y * y).max()) ** 0.5 == pytest.approx(half, abs=1.5)


def test_mixup_mixes_images_and_labels_equally() -> None:
    torch.manual_seed(0)
    y = torch.arange(40) % 5
    mixed, labels = mixup(X, y, 1.4, 5)
    torch.testing.assert_close(labels.sum(1), torch.ones(40))
    share = labels[labels < 1].max().item()
    own = labels.gather(1, y[:, None])[:, 0]
    assert ((own - share).abs().lt(1e-6) | (own - 1 + share).abs().lt(1e-6) | own.eq(1)).all()
    assert mixed.shape == X.shape


def test_draws_follow_the_global_seed() -> None:
    everything = config(crop_padding=2, flip=True, rotation=10.0, cutout=2)
    torch.manual_seed(5)
    first = augment(X, everything)
    torch.manual_seed(5)
    assert torch.equal(augmentation.augment(X, everything), first)
