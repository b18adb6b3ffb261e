"""One training step: attack, perturb the weights, update, restore."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from defenses.objectives import Objective, Terms, objective_module
from defenses.recipes.recipe import Recipe
from defenses.training.batchnorm import unsynchronised
from defenses.training.forward_passes import ForwardPasses
from defenses.training.inner_maximisation import maximise
from defenses.training.optimiser import l1_penalty, weight_decay_of
from defenses.training.weight_perturbation import Reduce, WeightPerturbation


@dataclass
class TrainingStep:
    """Everything a step works on. ``model``: images in [0, 1] to logits; it holds ``network``."""

    recipe: Recipe
    model: nn.Module
    optimiser: torch.optim.Optimizer
    autocast: Callable[[], AbstractContextManager[object]]
    reduce: Reduce | None = None
    """Averages gradients over processes, in place; None for one process."""
    compiled_batch_size: int | None = None
    """Compile the passes for batches of that many images; None for never."""
    share: float = 1.0
    """This process's images over the mean of all processes': weighted so, losses average to the batch's."""

    def __post_init__(self) -> None:
        self.passes = ForwardPasses(self.model, self.autocast, self.compiled_batch_size)
        self.objective = cast(Objective, objective_module(self.recipe.objective.name))
        self.perturbation = WeightPerturbation(self.model, self.recipe.perturbation, self.reduce)

    def __call__(self, x_NCHW: Tensor, y: Tensor, *, epsilon_fraction: float, perturb: bool) -> Terms:
        """Update the weights once on a batch; ``epsilon_fraction`` is the fraction of epsilon in force.

        The order within a batch is the authors': attack at w, v from x', loss and gradient at w+v.
        """
        regularised = perturb and self.recipe.perturbation.regulariser != "none"
        self.optimiser.zero_grad(set_to_none=True)
        with self.perturbation.scope():
            adv_NCHW = (
                self._perturb(x_NCHW, y, epsilon_fraction)
                if perturb
                else self.attack(x_NCHW, y, epsilon_fraction)
            )
            with self.passes.still() if regularised else nullcontext():
                terms = self._backward(x_NCHW, adv_NCHW, y)
            if not regularised:
                self.perturbation.carry_decay(weight_decay_of(self.optimiser))
        if regularised:
            terms = self._regularise(terms, x_NCHW, adv_NCHW, y)
        if self.reduce is not None:
            self.reduce(self._gradients())
        self.optimiser.step()
        if self.recipe.training.natural_forward:
            with torch.no_grad():
                self.passes.updating(x_NCHW)
        return terms

    def attack(self, x_NCHW: Tensor, y: Tensor, epsilon_fraction: float) -> Tensor:
        """Training images x' at the weights as they stand; the model is left in train mode."""
        recipe = self.recipe
        adv_NCHW = x_NCHW
        if recipe.inner.steps:
            self.model.train(recipe.inner.batch_norm == "train")
            forward = self.passes.frozen()
            loss = self.objective.attack_loss(forward, x_NCHW, y, recipe.objective)
            radius = float(recipe.threat.eps) * epsilon_fraction
            with unsynchronised(self.model):
                adv_NCHW = maximise(
                    forward, loss, x_NCHW, norm=recipe.threat.norm, radius=radius, inner=recipe.inner
                )
        self.model.train()
        return adv_NCHW

    def _terms(self, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor) -> Terms:
        return self.objective.loss(self.passes.updating, x_NCHW, adv_NCHW, y, self.recipe.objective)

    def _perturb(self, x_NCHW: Tensor, y: Tensor, epsilon_fraction: float) -> Tensor:
        """Algorithm 2: x' and v in turns. The passes for v leave BatchNorm's statistics untouched."""
        for _ in range(self.recipe.perturbation.alternations):
            adv_NCHW = self.attack(x_NCHW, y, epsilon_fraction)
            with self.passes.still():
                self.perturbation.ascend(partial(self._loss, x_NCHW, adv_NCHW, y))
        return adv_NCHW

    def _loss(self, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor) -> Tensor:
        return self._terms(x_NCHW, adv_NCHW, y).loss * self.share

    def _backward(self, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor) -> Terms:
        """Loss and gradients at the weights as they stand. The L1 penalty has no part in v."""
        terms = self._terms(x_NCHW, adv_NCHW, y)
        total = loss = terms.loss * self.share
        if self.recipe.optimiser.l1:
            total = total + l1_penalty(self.model, self.recipe.optimiser.l1)
        torch.autograd.backward(total)
        return Terms(loss.detach(), terms.logits_NK.detach())

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def _regularise(self, moved: Terms, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor) -> Terms:
        """Gradients of rho(w) + strength * |rho(w+v) - rho(w)| (or its square), v held fixed.

        On entry the gradients at w+v lie in ``.grad`` and the weights are w again. A variant that a
        reviewer of the AWP paper proposed.
        """
        at_moved = [g.clone() for g in self._gradients()]
        self.optimiser.zero_grad(set_to_none=False)
        terms = self._backward(x_NCHW, adv_NCHW, y)
        rise = moved.loss - terms.loss
        if self.reduce is not None:
            self.reduce([rise])
        config = self.recipe.perturbation
        slope = config.strength * (rise.sign() if config.regulariser == "absolute" else 2 * rise)
        with torch.no_grad():
            for gradient, other in zip(self._gradients(), at_moved, strict=True):
                gradient.add_(slope * (other - gradient))
        return terms
