"""What a model answered inside an attack: its first call, and one of the later ones."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

IMAGES = 16
"""Images of a call that are kept."""


@dataclass
class KeptCall:
    """The first images of a call, with the logits; with the gradient once it has been computed."""

    x_NCHW: Tensor
    logits_NK: Tensor
    weights_NK: Tensor | None = None
    """The gradient is that of ``(logits * weights).sum()``."""
    gradient_NCHW: Tensor | None = None


class KeptCalls:
    """The calls of one attack that are kept, of those with and of those without gradients.

    These are the first call, and a later one: each later call is kept with the same probability, so that a
    model cannot know which call will be compared.
    """

    def __init__(self, seed: int) -> None:
        self._draws = random.Random(seed)
        self._seen: Counter[bool] = Counter()
        self._kept: dict[tuple[bool, bool], KeptCall] = {}

    def offer(self, x_NCHW: Tensor, logits_NK: Tensor, *, differentiable: bool) -> KeptCall | None:
        """Keep copies of a call's tensors, or not; returns what is kept, to which a gradient can be added."""
        before = self._seen[differentiable]
        self._seen[differentiable] += 1
        # Reservoir sampling: the k-th later call replaces the kept one with probability 1/k.
        if before > 1 and self._draws.random() * before >= 1:
            return None
        call = KeptCall(x_NCHW[:IMAGES].detach().clone(), logits_NK[:IMAGES].detach().clone())
        self._kept[differentiable, before > 0] = call
        return call

    def __iter__(self) -> Iterator[KeptCall]:
        return iter(self._kept.values())
