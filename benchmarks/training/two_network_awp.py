"""AT and AT-AWP in the two-network formulation of the authors, reimplemented for the comparison.

The attack also computes gradients of the weights, evaluates the loss of its last iterate, and runs in train
mode. The weight perturbation comes from a second network, which is overwritten and updated once per batch.
One more forward pass on the natural images is made for logging. The code is not optimised.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TwoNetworks:
    """One training step: ``TwoNetworks(...)(x, y)``."""

    def __init__(
        self, model: nn.Module, *, eps: float, step: float, steps: int, gamma: float, lr: float = 0.1
    ) -> None:
        """``gamma=0`` is AT without weight perturbation, and without the second network."""
        self.model = model
        self.eps, self.step_size, self.steps, self.gamma = eps, step, steps, gamma
        self.optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        if gamma:
            self.proxy = copy.deepcopy(model)
            self.proxy_optimiser = torch.optim.SGD(self.proxy.parameters(), lr=0.01)

    def attack(self, x: Tensor, y: Tensor) -> Tensor:
        delta = torch.empty_like(x).uniform_(-self.eps, self.eps)
        delta = (x + delta).clamp(0, 1).sub(x).requires_grad_(True)
        for _ in range(self.steps):
            F.cross_entropy(self.model(x + delta), y).backward()
            assert delta.grad is not None
            with torch.no_grad():
                moved = (delta + self.step_size * delta.grad.sign()).clamp(-self.eps, self.eps)
                delta.copy_((x + moved).clamp(0, 1) - x)
            delta.grad.zero_()
        with torch.no_grad():
            F.cross_entropy(self.model(x + delta), y, reduction="none")
        return (x + delta).detach()

    def difference(self, adv: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The change of the second network by one ascent step, scaled to the norm of the weights."""
        self.proxy.load_state_dict(self.model.state_dict())
        self.proxy.train()
        self.proxy_optimiser.zero_grad()
        (-F.cross_entropy(self.proxy(adv), y)).backward()
        self.proxy_optimiser.step()
        old, new = self.model.state_dict(), self.proxy.state_dict()
        found = {}
        for name, value in old.items():
            if value.dim() > 1 and "weight" in name:
                change = new[name] - value
                found[name] = value.norm() / (change.norm() + 1e-20) * change
        return found

    @torch.no_grad()
    def move(self, difference: dict[str, Tensor], factor: float) -> None:
        for name, parameter in self.model.named_parameters():
            if name in difference:
                parameter.add_(factor * difference[name])

    def __call__(self, x: Tensor, y: Tensor) -> None:
        self.model.train()
        adv = self.attack(x, y)
        difference = self.difference(adv, y) if self.gamma else {}
        self.move(difference, self.gamma)
        loss = F.cross_entropy(self.model(adv), y)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.move(difference, -self.gamma)
        F.cross_entropy(self.model(x), y).item()
