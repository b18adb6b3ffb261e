"""Predictions of a model that may remember images or write into them.

The model receives copies, in two orders and batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from robust_eval.core.logits import margin
from robust_eval.core.types import Bools
from robust_eval.evaluation.judge import classify, is_correct, within_rounding
from robust_eval.models.isolation import Isolated


class ImageSource(Protocol):
    """Images by row number: a tensor, or images that are stored elsewhere."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """A new tensor with the images of ``rows``, (len(rows), C, H, W), on the model's device."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model on N images."""

    correct: Bools
    """(N,) predicted as labelled, with finite logits."""
    finite: Bools
    """(N,)"""
    margin: Tensor
    """(N,) true logit minus the largest other."""
    logit_std: float
    """Standard deviation of all finite logits."""
    writes: int = 0
    """Number of batches that the model changed."""

    def within_rounding(self, logit_std: float) -> Bools:
        """(N,) whether the margin is too small to decide between devices."""
        return within_rounding(self.margin, logit_std)


@torch.no_grad()
def predict(
    model: nn.Module, images: ImageSource, y_N: Tensor, batch_size: int, order: Tensor | None = None
) -> Predictions:
    """Predictions under the judge's predicate, with margins. ``model``: [0, 1] pixels to logits, eval mode.

    The model receives copies of the images, in batches along ``order``, a permutation of the N rows (None: as
    stored). :func:`robust_eval.evaluation.judge.judge` itself is not called: it returns no margins, and it
    counts an invalid image as robust, which verification reports as a failed check instead.
    """
    order = torch.arange(len(images), device=y_N.device) if order is None else order.to(y_N.device)
    isolated, batches = Isolated(model), torch.split(order, batch_size) if len(order) else ()
    parts = [isolated(images[rows]) for rows in batches]
    shuffled = torch.cat(parts) if parts else torch.zeros(0, 2, device=y_N.device)
    logits = torch.empty_like(shuffled)
    logits[order] = shuffled
    pred, finite = classify(logits)
    logit_std = float(logits[finite].std()) if finite.any() else 1.0
    correct = is_correct(pred, finite, y_N)
    margins, writes = margin(logits, y_N), isolated.writes
    return Predictions(correct.cpu().numpy(), finite.cpu().numpy(), margins, logit_std, writes)


@dataclass(frozen=True)
class TwoPredictions:
    """Predictions on the same images in two orders and batch sizes."""

    first: Predictions
    second: Predictions

    @property
    def writes(self) -> int:
        """Number of batches that the model changed."""
        return self.first.writes + self.second.writes

    def correct(self) -> Bools:
        """(N,) predicted as labelled both times."""
        both: Bools = self.first.correct & self.second.correct
        return both

    def ever_correct(self) -> Bools:
        """(N,) predicted as labelled at least once."""
        ever: Bools = self.first.correct | self.second.correct
        return ever

    def within_rounding(self, logit_std: float) -> Bools:
        """(N,) whether one of the margins is too small to decide between devices."""
        near: Bools = self.first.within_rounding(logit_std) | self.second.within_rounding(logit_std)
        return near

    def unstable(self, logit_std: float) -> int:
        """Number of images that are predicted as labelled only once, by more than rounding."""
        differ = self.first.correct != self.second.correct
        return int((differ & ~self.within_rounding(logit_std)).sum())


def predict_twice(model: nn.Module, images: ImageSource, y_N: Tensor, batch_size: int) -> TwoPredictions:
    """:func:`predict` in two random orders, in batches of ``batch_size`` and of a third of it."""
    n = len(images)
    first, second = (torch.from_numpy(np.random.default_rng([k, n]).permutation(n)) for k in (0, 1))
    smaller = max(1, min(batch_size, n) // 3)
    return TwoPredictions(
        predict(model, images, y_N, batch_size, first), predict(model, images, y_N, smaller, second)
    )
