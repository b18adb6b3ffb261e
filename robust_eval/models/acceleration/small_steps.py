"""Many small steps around each image, cut into calls of one size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class StepEvaluator:
    """``call``: images (N, C, H, W) and steps (N S, C, H, W) to logits (N S, K); ``rows``: queries in a call.

    Every call has the same shape, so that compiled code serves them all: what is left over is padded.
    """

    call: Callable[[Tensor, Tensor], Tensor]
    rows: int

    def __call__(self, x_NCHW: Tensor, steps_NSCHW: Tensor) -> Tensor:
        """Logits (N, S, K) at ``x + steps``."""
        asked = steps_NSCHW.shape[1]
        group = min(asked, self.rows)
        steps = pad(steps_NSCHW, (0, 0) * 3 + (0, -asked % group)).unflatten(1, (-1, group))
        x = x_NCHW.repeat_interleave(steps.shape[1], 0)
        steps = steps.flatten(0, 1)
        images = max(1, self.rows // group)
        parts = zip(torch.split(x, images), torch.split(steps, images), strict=True)
        logits = torch.cat([self._once(some, around, images) for some, around in parts])
        answers: Tensor = logits.unflatten(0, (len(x_NCHW), -1)).flatten(1, 2)
        return answers[:, :asked]

    def _once(self, x_NCHW: Tensor, steps_NSCHW: Tensor, images: int) -> Tensor:
        missing = (0, images - len(x_NCHW))
        x = pad(x_NCHW, (0, 0) * 3 + missing)
        steps = pad(steps_NSCHW, (0, 0) * 4 + missing).flatten(0, 1)
        logits = self.call(*(tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, steps)))
        answers: Tensor = logits.unflatten(0, (images, -1))
        return answers[: len(x_NCHW)]
