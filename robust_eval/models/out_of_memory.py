"""Detect out-of-memory errors; compute logits in smaller batches after one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from robust_eval.core import memory
from robust_eval.core.errors import UserError

Result = TypeVar("Result")

SINGLE_IMAGE = "Out of memory on a single image. Free memory on this device, or use the CPU."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a lack of memory, on any device."""
    return isinstance(error, torch.OutOfMemoryError) or memory.is_lack(error)


def release_cache() -> None:
    """Release cached GPU memory. Call it outside ``except`` blocks: a traceback references tensors."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def with_fewer(work: Callable[[int], Result], count: int, least: int = 1) -> Result:
    """``work(count)``, with half of the count after each lack of memory; at ``least`` the error is raised."""
    while True:
        try:
            return work(count)
        except RuntimeError as error:
            if count <= least or not is_out_of_memory(error):
                raise
        count //= 2
        release_cache()


@torch.no_grad()
def logits(model: Callable[[Tensor], Tensor], x_NCHW: Tensor) -> Tensor:
    """``model(x_NCHW)``, shape (N, K); the batch is halved until it fits into memory.

    Raises:
        UserError: if a single image does not fit.
    """
    size = len(x_NCHW)
    while True:
        try:
            parts = [model(part) for part in torch.split(x_NCHW, max(size, 1))]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if size <= 1:
            raise UserError(SINGLE_IMAGE)
        size //= 2
        release_cache()
