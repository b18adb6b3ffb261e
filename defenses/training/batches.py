"""The images of each batch: labelled, extra and pseudo-labelled.

The batches are a function of (seed, epoch), so a resumed run draws the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robust_eval.core.errors import UserError
from robust_eval.core.seeds import derive
from robust_eval.data import ImageSet


@dataclass(frozen=True)
class ImagePool:
    """Images stored as uint8 on a device; batches are float32 in [0, 1]."""

    x_NCHW: Tensor
    """uint8."""
    y_N: Tensor
    """int64."""

    @property
    def n(self) -> int:
        return len(self.y_N)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images x_NCHW and labels y_N at these positions."""
        indices = indices.to(self.y_N.device)
        return self.x_NCHW[indices].float().div_(255), self.y_N[indices]


def build_pool(sets: list[ImageSet], device: torch.device) -> ImagePool:
    """The images of all sets, in order, on ``device``."""
    x_NHWC = np.concatenate([images.in_memory() for images in sets])
    y_N = np.concatenate([images.y_N for images in sets])
    x_NCHW = torch.from_numpy(np.ascontiguousarray(x_NHWC.transpose(0, 3, 1, 2)))
    return ImagePool(x_NCHW.to(device), torch.from_numpy(y_N.astype(np.int64)).to(device))


def check_compatible(base: ImageSet, other: ImageSet, option: str) -> None:
    """Raise UserError if ``other`` differs from ``base`` in image size or channels or has unknown labels."""
    if (other.image_size, other.channels) != (base.image_size, base.channels):
        sizes = [f"{s.image_size[0]}x{s.image_size[1]}x{s.channels}" for s in (base, other)]
        raise UserError(
            f"{option} holds images of {sizes[1]}, but {base.name} has {sizes[0]}: resize them first."
        )
    if other.n and int(other.y_N.max()) >= base.classes:
        raise UserError(
            f"{option} has a label {int(other.y_N.max())}, but {base.name} has {base.classes} classes "
            f"(0 to {base.classes - 1}): map the labels first."
        )


@dataclass(frozen=True)
class BatchSampler:
    """Batches of ``batch_size`` images, of which ``unlabelled`` come from the pseudo-labelled pool.

    An epoch has ceil(labelled / batch_size) batches. Without a pseudo-labelled pool each image is used
    once and the last batch may be smaller; a single image, which BatchNorm cannot normalise, is left out.
    With one, each epoch takes the first labelled images of a new permutation and draws the pseudo-labelled
    ones with replacement (RST authors' code).
    """

    labelled: ImagePool
    pseudo: ImagePool | None
    batch_size: int
    unlabelled: int
    seed: int

    @property
    def iterations(self) -> int:
        """Batches per epoch."""
        single = self.pseudo is None and self.labelled.n > 1 and self.labelled.n % self.batch_size == 1
        return math.ceil(self.labelled.n / self.batch_size) - single

    def size(self, i: int) -> int:
        """The number of images in batch ``i`` of an epoch, over all processes."""
        remaining = self.labelled.n - i * self.batch_size
        return self.batch_size if self.pseudo is not None else min(self.batch_size, remaining)

    def batches(
        self, epoch: int, start: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches (x_NCHW, y) of an epoch from number ``start``; of each, the part of process ``rank``.

        A last batch with fewer than two images per process is left out.
        """
        generator = torch.Generator().manual_seed(derive(self.seed, "batches", str(epoch)))
        # Moved to the device once, so that drawing a batch needs no transfer.
        order = torch.randperm(self.labelled.n, generator=generator).to(self.labelled.y_N.device)
        if self.pseudo is None:
            for i in range(start, self.iterations):
                if world > 1 and self.size(i) < 2 * world:
                    return
                yield self.labelled.batch(order[i * self.batch_size : (i + 1) * self.batch_size][rank::world])
            return
        labelled = self.batch_size - self.unlabelled
        for i in range(self.iterations):
            drawn = torch.randint(self.pseudo.n, (self.unlabelled,), generator=generator)
            if i < start:
                continue
            x1, y1 = self.labelled.batch(
                order[torch.arange(i * labelled, (i + 1) * labelled, device=order.device) % len(order)][
                    rank::world
                ]
            )
            x2, y2 = self.pseudo.batch(drawn[rank::world])
            yield torch.cat([x1, x2]), torch.cat([y1, y2])
