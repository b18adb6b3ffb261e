"""Errors by corruption of a result on a whole set of corrupted images, and their mean (mCE).

Hendrycks and Dietterich, ICLR 2019, section 4.2: the error under a corruption is the mean of its severities;
on ImageNet-C it is divided by AlexNet's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robust_eval.core.corruptions import ALEXNET_ERROR, CORRUPTIONS
from robust_eval.core.request import CLEAN
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.results.schema import EvalResult

WHOLE: Mapping[str, tuple[int, ...]] = {
    "cifar10-c": (750_000,),
    "cifar100-c": (750_000,),
    "imagenet-c": (375_000, 3_750_000),
}
"""Images of each set; of ImageNet-C, with RobustBench's images or all."""


@dataclass(frozen=True)
class CorruptionErrors:
    """Errors without an attack, as fractions."""

    by_corruption: Mapping[str, float]
    relative: Mapping[str, float] | None
    """Divided by AlexNet's, for ImageNet-C."""

    @property
    def mean(self) -> float:
        """Mean error of the corruptions."""
        return float(np.mean(list(self.by_corruption.values())))

    @property
    def mce(self) -> float:
        """Mean corruption error: relative to AlexNet for ImageNet-C, otherwise the mean error."""
        return self.mean if self.relative is None else float(np.mean(list(self.relative.values())))


def corruption_errors(result: EvalResult) -> CorruptionErrors | None:
    """The errors of the clean column; None unless the result is on a whole set."""
    if result.data.n not in WHOLE.get(result.data.name, ()):
        return None
    bits = parse_bits(result.columns[CLEAN].robust_bits)
    if result.data.order != "stored":
        # As robust_eval.data shuffles images that are sorted by class.
        stored = np.empty_like(bits)
        stored[np.random.RandomState(0).permutation(len(bits))] = bits
        bits = stored
    accuracy = bits.reshape(len(CORRUPTIONS), -1).mean(1)
    errors = {name: 1 - float(one) for name, one in zip(CORRUPTIONS, accuracy, strict=True)}
    relative = None
    if result.data.name == "imagenet-c":
        relative = {name: error / ALEXNET_ERROR[name] for name, error in errors.items()}
    return CorruptionErrors(errors, relative)
