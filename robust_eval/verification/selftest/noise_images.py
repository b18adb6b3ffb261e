"""Random images for untrained models."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_eval.verification.selftest.base_networks import SmallNetwork


@torch.no_grad()
def noise_problem(n: int = 32) -> tuple[Tensor, Tensor]:
    """8-bit noise images (n, 1, 8, 8) and labels: predictions of :class:`SmallNetwork`, except for three."""
    x = torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(3)) / 255
    y = SmallNetwork().eval()(x).argmax(1)
    # The network predicts two classes only; these labels add a third.
    y[:3] = torch.tensor([0, 1, 2])
    return x, y
