"""Planted models whose answer to an image depends on the batch that it is part of."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_eval.verification.selftest.base_networks import ModifiedNetwork

MANY = 40


class BatchStatistics(ModifiedNetwork):
    """Normalises every pixel by its mean and standard deviation in the batch (test-time normalisation).

    Batches of one are not changed. Schneider et al. 2020 use it against image corruptions.
    """

    def change_input(self, x: Tensor) -> Tensor:
        if len(x) == 1:
            return x
        mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
        return 0.5 + 0.4 * (x - mean) / (std + 1e-3)


class LargeBatchStatistics(BatchStatistics):
    """The same, only in batches of more than 40 images."""

    def change_input(self, x: Tensor) -> Tensor:
        return super().change_input(x) if len(x) > MANY else x


class SortsBatch(ModifiedNetwork):
    """Adds an offset to the logits by the image's rank of brightness in the batch."""

    def change_input(self, x: Tensor) -> Tensor:
        self.rank = x.detach().flatten(1).mean(1).argsort().argsort()
        return x

    def change_output(self, z: Tensor) -> Tensor:
        offset = torch.sin(3 * self.rank[:, None] + torch.arange(z.shape[1]).to(z))
        return z + 2 * offset


class MajorityOfNeighbours(ModifiedNetwork):
    """Averages logits with the nearest other image of the batch, so that perturbed copies vote together."""

    def change_output(self, z: Tensor) -> Tensor:
        if len(z) == 1:
            return z
        distance = torch.cdist(z.detach(), z.detach()).fill_diagonal_(float("inf"))
        return 0.8 * z + 0.2 * z[distance.argmin(1)].detach()


class PositionOffset(ModifiedNetwork):
    """Adds an offset to the logits by the position in the batch beyond the thirty-second."""

    def change_output(self, z: Tensor) -> Tensor:
        place = (torch.arange(len(z)) - 31).clamp_min(0).to(z)
        return z + torch.sin(place[:, None] * torch.arange(1, z.shape[1] + 1).to(z))
