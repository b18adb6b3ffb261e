"""Evaluate many small steps around each image, in calls of one fixed shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class StepEvaluator:
    """Logits at ``x + steps``, computed by calls that all have the same shape.

    ``call`` maps images (N, C, H, W) and steps (N S, C, H, W) to logits (N S, K); ``rows`` is the number of
    steps per call. Incomplete calls are padded, so ``call`` is compiled for one shape only.
    """

    call: Callable[[Tensor, Tensor], Tensor]
    rows: int

    def __call__(self, x_NCHW: Tensor, steps_NSCHW: Tensor) -> Tensor:
        """Logits (N, S, K) at ``x + steps``."""
        count = steps_NSCHW.shape[1]
        group = min(count, self.rows)
        steps = pad(steps_NSCHW, (0, 0) * 3 + (0, -count % group)).unflatten(1, (-1, group))
        x = x_NCHW.repeat_interleave(steps.shape[1], 0)
        steps = steps.flatten(0, 1)
        images = max(1, self.rows // group)
        parts = zip(torch.split(x, images), torch.split(steps, images), strict=True)
        logits = torch.cat([self._call_padded(*part, images) for part in parts])
        logits_NSK: Tensor = logits.unflatten(0, (len(x_NCHW), -1)).flatten(1, 2)
        return logits_NSK[:, :count]

    def _call_padded(self, x_NCHW: Tensor, steps_NSCHW: Tensor, images: int) -> Tensor:
        missing = (0, images - len(x_NCHW))
        x = pad(x_NCHW, (0, 0) * 3 + missing)
        steps = pad(steps_NSCHW, (0, 0) * 4 + missing).flatten(0, 1)
        logits = self.call(*(tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, steps)))
        logits_NSK: Tensor = logits.unflatten(0, (images, -1))
        return logits_NSK[: len(x_NCHW)]
