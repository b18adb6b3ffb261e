"""Planted models that change something outside themselves: input, random generators, earlier outputs."""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.verification.selftest.base_networks import ModifiedNetwork


class WritesIntoData(ModifiedNetwork):
    """Clips its input in place through ``x.data``, which autograd does not see."""

    def change_input(self, x: Tensor) -> Tensor:
        x.data.clamp_(0.1, 0.9)
        return x


class WritesWithoutGradient(ModifiedNetwork):
    """Rounds its input to 16 levels in place under ``no_grad``."""

    def change_input(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x.mul_(15).round_().div_(15)
        return x


class WritesByNormalising(ModifiedNetwork):
    """Normalises its input in place, and undoes it out of place."""

    def change_input(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).div_(0.25) * 0.25 + 0.5


class WritesByRelu(ModifiedNetwork):
    """Begins with an in-place ReLU on a shifted view of its input."""

    def change_input(self, x: Tensor) -> Tensor:
        return F.relu(x.sub_(0.05), inplace=True)


class WritesThroughNumpy(ModifiedNetwork):
    """Rounds its input in place through the array that shares its memory."""

    def change_input(self, x: Tensor) -> Tensor:
        pixels = x.detach().numpy()
        np.round(15 * pixels, out=pixels)
        pixels /= 15
        return x


class ReusesOutput(ModifiedNetwork):
    """Without gradients, returns the same tensor in each call, so that earlier logits are overwritten."""

    def __init__(self, network: nn.Module | None = None) -> None:
        super().__init__(network)
        self.logits = torch.empty(0, 10)

    def change_output(self, z: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return z
        if len(self.logits) < len(z):
            self.logits = torch.empty_like(z)
        self.logits[: len(z)] = z
        return self.logits[: len(z)]


class SeedsTorch(ModifiedNetwork):
    """Seeds torch in each call: a random attack then draws the same numbers again and again."""

    def change_input(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return x


class SeedsNumpy(ModifiedNetwork):
    """The same with numpy."""

    def change_input(self, x: Tensor) -> Tensor:
        np.random.seed(0)
        return x


class SeedsPython(ModifiedNetwork):
    """The same with Python's ``random``."""

    def change_input(self, x: Tensor) -> Tensor:
        random.seed(0)
        return x


class SeedsForNoise(ModifiedNetwork):
    """Seeds torch in order to add the same noise in each call: the function itself is deterministic."""

    def change_input(self, x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return x + 0.05 * torch.randn(x.shape[1:]).to(x)


class DrawsFromOwnGenerator(ModifiedNetwork):
    """Draws the same noise in each call from a generator of its own; harmless."""

    def change_input(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return x + 0.05 * torch.randn(x.shape[1:], generator=generator).to(x)
