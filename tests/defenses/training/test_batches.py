from __future__ import annotations

import numpy as np
import pytest
import torch

from defenses.training.batches import BatchSampler, ImagePool, check_compatible
from defenses.training.job import hold_out
from robust_eval.core.errors import UserError
from robust_eval.data import ImageSet


def pool(n: int, offset: int = 0) -> ImagePool:
    """Image i is filled with the value i, so that images can be identified in a batch."""
    values = torch.arange(offset, offset + n)
    return ImagePool(values.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), values)


def images(n: int = 10, classes: int = 3, size: int = 4, labels: list[int] | None = None) -> ImageSet:
    y = np.array(labels if labels is not None else [i % classes for i in range(n)])
    return ImageSet("toy", "all", np.zeros((n, size, size, 1), np.uint8), y, tuple(map(str, range(classes))))


def test_each_epoch_uses_every_image_once_in_its_own_order() -> None:
    sampler = BatchSampler(pool(50), None, 16, 0, seed=0)
    epochs = [torch.cat([y for _, y in sampler.batches(epoch)]) for epoch in (0, 1)]
    assert all(sorted(order.tolist()) == list(range(50)) for order in epochs)
    assert not torch.equal(*epochs)
    assert [len(y) for _, y in sampler.batches(0)] == [16, 16, 16, 2]
    assert sampler.iterations == 4


def test_batches_are_pixels_in_0_to_1_with_their_labels() -> None:
    x, y = next(BatchSampler(pool(50), None, 16, 0, seed=0).batches(0))
    torch.testing.assert_close(x[:, 0, 0, 0] * 255, y.float())
    assert x.dtype == torch.float32


@pytest.mark.parametrize("unlabelled", [0, 8])
def test_a_resumed_epoch_draws_the_rest_of_the_same_batches(unlabelled: int) -> None:
    sampler = BatchSampler(pool(50), pool(30, 100) if unlabelled else None, 16, unlabelled, seed=3)
    complete, rest = list(sampler.batches(2)), list(sampler.batches(2, start=2))
    assert len(complete) == len(rest) + 2
    assert all(torch.equal(a[1], b[1]) for a, b in zip(complete[2:], rest, strict=True))


def test_pseudo_labelled_images_are_half_of_each_batch_and_drawn_with_replacement() -> None:
    """RST: ceil(n / batch) batches; the labelled half follows a new permutation."""
    sampler = BatchSampler(pool(64), pool(10, 100), 16, 8, seed=0)
    batches = [y for _, y in sampler.batches(0)]
    assert len(batches) == sampler.iterations == 4
    labelled = torch.cat([y[y < 100] for y in batches])
    pseudo = torch.cat([y[y >= 100] for y in batches])
    assert len(labelled) == len(pseudo) == 32
    assert len(set(labelled.tolist())) == 32
    assert len(set(pseudo.tolist())) <= 10


def test_processes_share_each_batch() -> None:
    sampler = BatchSampler(pool(32), None, 16, 0, seed=0)
    parts = [list(sampler.batches(0, rank=rank, world=2)) for rank in (0, 1)]
    for (_, a), (_, b), (_, complete) in zip(*parts, sampler.batches(0), strict=True):
        assert sorted([*a.tolist(), *b.tolist()]) == sorted(complete.tolist())
        assert len(a) == len(b)


def test_validation_images_are_disjoint_and_at_most_a_fifth() -> None:
    complete = images(50)
    complete = ImageSet(
        "toy", "all", np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1), complete.y_N, complete.class_names
    )
    train, validation = hold_out(complete, 1000)
    assert validation is not None
    assert (train.n, validation.n) == (40, 10)
    assert not set(train.x_NHWC.ravel().tolist()) & set(validation.x_NHWC.ravel().tolist())
    again = hold_out(complete, 1000)[1]
    assert again is not None
    assert np.array_equal(again.x_NHWC, validation.x_NHWC)
    assert hold_out(complete, 0) == (complete, None)


def test_images_of_another_size_or_label_are_refused() -> None:
    with pytest.raises(UserError, match=r"--extra-data holds images of 8x8x1, but toy has 4x4x1"):
        check_compatible(images(), images(size=8), "--extra-data")
    with pytest.raises(UserError, match=r"--unlabelled has a label 3, but toy has 3 classes"):
        check_compatible(images(), images(4, 4), "--unlabelled")
