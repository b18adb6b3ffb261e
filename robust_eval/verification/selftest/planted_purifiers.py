"""Planted models that change their input by an optimisation in the forward pass (purification).

They differ in how they compute the gradient, because a check that looks for calls of autograd may not see all
of them. Sources: Shi et al. 2021 (self-supervised purification), Alfarra et al. 2022 (anti-adversary).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch
from torch import Tensor

from robust_eval.verification.selftest.base_networks import ModifiedNetwork

STEPS, STEP = 3, 0.05


class Purifier(ModifiedNetwork):
    """Three sign steps of 0.05 that reduce the entropy of the prediction, as a constant for the gradient."""

    def change_input(self, x: Tensor) -> Tensor:
        moved = x.detach().clone()
        for _ in range(STEPS):
            moved = (moved - STEP * self.slope(moved).sign()).clamp(0, 1)
        return x + (moved - x).detach()

    def slope(self, x: Tensor) -> Tensor:
        """The gradient of :meth:`objective` at ``x``, here by ``Tensor.backward``."""
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            self.objective(leaf).backward()
        assert leaf.grad is not None
        return leaf.grad

    def objective(self, x: Tensor) -> Tensor:
        """What the steps reduce: the sum of the entropies."""
        return self.entropies(x).sum()

    def entropies(self, x: Tensor) -> Tensor:
        """The entropy of each prediction (N,)."""
        p: Tensor = self.network(x).softmax(1)
        return -(p * (p + 1e-12).log()).sum(1)


class FunctionalPurifier(Purifier):
    """The same with ``torch.func.grad``."""

    def slope(self, x: Tensor) -> Tensor:
        found: Tensor = torch.func.grad(self.objective)(x.detach())
        return found


class ThreadedPurifier(Purifier):
    """The same in another thread, where modes that watch calls of autograd are not active."""

    def slope(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        slope: Callable[[Tensor], Tensor] = super().slope
        thread = threading.Thread(target=lambda: found.append(slope(x)))
        thread.start()
        thread.join()
        return found[0]


class DifferencePurifier(Purifier):
    """The same with differences along ten fixed directions instead of a gradient."""

    def slope(self, x: Tensor) -> Tensor:
        directions = torch.randn(10, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
        with torch.no_grad():
            base = self.entropies(x)
            slopes = torch.stack([self.entropies(x + 1e-3 * one) - base for one in directions])
        return torch.einsum("dn,dchw->nchw", slopes, directions)


class BlindPurifier(DifferencePurifier):
    """The same without any gradient of the input: the purified image is a constant."""

    def change_input(self, x: Tensor) -> Tensor:
        return super().change_input(x).detach()


class AntiAdversary(Purifier):
    """Three steps that raise the confidence in the predicted class (Alfarra et al. 2022)."""

    def objective(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        return torch.nn.functional.cross_entropy(logits, logits.detach().argmax(1), reduction="sum")
