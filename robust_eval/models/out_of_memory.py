"""Running out of memory: how it is recognised, and lived with where nothing but logits is wanted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from robust_eval.core.errors import UserError

SINGLE = "Out of memory on a single image. Free memory on this device, or use the CPU."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failure is a lack of memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    found = "out of memory" in text or "can't allocate" in text or "cannot allocate" in text
    return isinstance(error, RuntimeError) and found


def release_cache() -> None:
    """Hand back what the allocator keeps. Not inside an ``except``: its traceback holds tensors."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@torch.no_grad()
def logits(model: Callable[[Tensor], Tensor], x_NCHW: Tensor) -> Tensor:
    """``model(x_NCHW)`` (N, K), in one call where it fits into memory, else in parts found by halving."""
    size = len(x_NCHW)
    while True:
        try:
            parts = [model(part) for part in torch.split(x_NCHW, max(size, 1))]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if size <= 1:
            raise UserError(SINGLE)
        size //= 2
        release_cache()
