"""A function from images to logits, called in batches of fixed sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Several small calls replace a padded one only if the padded call would process this many times more rows.
_MIN_SAVING = 1.2


@dataclass(frozen=True)
class Engine:
    """A function from images to logits, with the batch sizes to call it with.

    ``rows``: the largest number of images per call (None: unlimited). ``sizes``: the batch sizes it is
    compiled for, in increasing order up to ``rows``; smaller batches are padded.
    """

    call: Callable[[Tensor], Tensor]
    rows: int | None = None
    sizes: tuple[int, ...] = ()

    def portion(self, n: int) -> int:
        """How many of ``n`` images to pass to the next call, so that little padding is needed."""
        if self.rows is None or n >= self.rows:
            return min(n, self.rows or n)
        smaller = max((size for size in self.sizes if size < n), default=None)
        if smaller is None:
            return n
        padded = next((size for size in self.sizes if size >= n), n)
        return smaller if padded > _MIN_SAVING * smaller * -(-n // smaller) else n

    def __call__(self, x_NCHW: Tensor) -> Tensor:
        """Logits (N, K) of at most ``rows`` images. ``call`` receives copies, into which it may write."""
        n = len(x_NCHW)
        size = next((size for size in self.sizes if size >= n), n)
        x = x_NCHW
        if size > n > 0:
            x = torch.cat([x, x[:1].detach().expand(size - n, *x.shape[1:])])
        x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        return self.call(x.clone() if x.data_ptr() == x_NCHW.data_ptr() else x)[:n]
