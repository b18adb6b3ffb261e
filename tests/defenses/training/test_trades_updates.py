"""TRADES, TRADES-AWP and RST against updates written from the papers and the order of the authors' passes.

In float64, with images inside (0, 1), where the start of the attack is not clamped.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.recipes.choices import Choices
from defenses.recipes.resolve import resolve
from defenses.training import optimiser
from defenses.training.step import TrainingStep

UPDATES, STEPS, EPS, BETA, GAMMA = 8, 4, 0.1, 6.0, 0.005


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    return nn.Sequential(*layers).double()


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    images = 0.15 + 0.7 * torch.rand(UPDATES, 10, 1, 6, 6, generator=generator, dtype=torch.float64)
    return [(x, torch.arange(10) % 3) for x in images]


def divergence(natural: Tensor, adversarial: Tensor) -> Tensor:
    return F.kl_div(adversarial.log_softmax(1), natural.softmax(1), reduction="sum")


def attack(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    adv = x + 0.001 * torch.randn_like(x)
    for _ in range(STEPS):
        adv.requires_grad_()
        (gradient,) = torch.autograd.grad(divergence(model(x), model(adv)), adv)
        adv = (adv.detach() + EPS / 3 * gradient.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    model.train()
    return adv


def objective(model: nn.Module, x: Tensor, adv: Tensor, y: Tensor, order: str) -> Tensor:
    """The loss after a pass for each letter of the order: n natural, a adversarial."""
    logits = [(letter, model(x if letter == "n" else adv)) for letter in order]
    natural = [found for letter, found in logits if letter == "n"]
    adversarial = dict(logits)["a"]
    return F.cross_entropy(natural[0], y) + BETA / len(x) * divergence(natural[-1], adversarial)


def reference(order: str, *, awp: bool, nesterov: bool) -> nn.Module:
    model = network()
    sgd = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=nesterov)
    for number, (x, y) in enumerate(batches()):
        torch.manual_seed(number)
        adv = attack(model, x)
        moved: Sequence[tuple[Tensor, Tensor]] = []
        if awp:
            other = copy.deepcopy(model)
            objective(other, x, adv, y, order).backward()
            pairs = zip(model.parameters(), other.parameters(), strict=True)
            moved = [(p, GAMMA * p.norm() / q.grad.norm() * q.grad) for p, q in pairs if p.dim() > 1]
            with torch.no_grad():
                for p, v in moved:
                    p += v
        sgd.zero_grad()
        objective(model, x, adv, y, order).backward()
        sgd.step()
        with torch.no_grad():
            for p, v in moved:
                p -= v
    return model


@pytest.mark.parametrize(
    ("recipe", "order"), [("trades", "nan"), ("trades-awp", "ann"), ("rst", "an"), ("rst-awp", "an")]
)
def test_updates_of_the_recipe(recipe: str, order: str) -> None:
    expected = reference(order, awp=recipe.endswith("awp"), nesterov=recipe.startswith("rst"))
    sets = (f"inner.steps={STEPS}", "inner.step_size=1/3", "perturbation.warmup=0")
    found = resolve(recipe, Choices(data="cifar10", norm="Linf", eps=str(EPS), sets=sets)).recipe
    model = network()
    step = TrainingStep(found, model, optimiser.build_optimiser(model, found.optimiser), nullcontext)
    # The passes of a training return float32.
    step.passes.with_weight_gradients = model.__call__  # type: ignore[method-assign]
    step.passes.with_frozen_weights = lambda: model.__call__  # type: ignore[method-assign]
    for number, (x, y) in enumerate(batches()):
        torch.manual_seed(number)
        step(x, y, epsilon_fraction=1.0, perturb=found.perturbation.kind != "none")
    differences: dict[str, Any] = {
        name: float((value - expected.state_dict()[name]).abs().max())
        for name, value in model.state_dict().items()
    }
    assert max(differences.values()) < 1e-12, differences
