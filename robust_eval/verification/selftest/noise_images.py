"""Images for models that were never trained."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_eval.verification.selftest.base_networks import SmallNetwork


@torch.no_grad()
def noise_problem(n: int = 32) -> tuple[Tensor, Tensor]:
    """8x8 noise of 8-bit levels (n, 1, 8, 8), and the honest network's predictions for most of it."""
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(3)) / 255
    y = SmallNetwork().eval()(x).argmax(1)
    # It names two classes alone; these three make others occur among the labels.
    y[:3] = torch.tensor([0, 1, 2])
    return x, y
