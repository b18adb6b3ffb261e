"""One training step: attack, perturb the weights, compute gradients, restore the weights, update."""

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
from defenses.training.repeated_passes import RepeatedPasses
from defenses.training.weight_perturbation import Reduce, WeightPerturbation


@dataclass
class TrainingStep:
    """One update of ``model`` (images in [0, 1] to logits_NK) by ``optimiser``."""

    recipe: Recipe
    model: nn.Module
    optimiser: torch.optim.Optimizer
    autocast: Callable[[], AbstractContextManager[object]]
    reduce: Reduce | None = None
    """Averages gradients over processes, in place; None for one process."""
    compiled_batch_size: int | None = None
    """Compile the passes for batches of this many images; None: do not compile."""

    def __post_init__(self) -> None:
        self.passes = ForwardPasses(self.model, self.autocast, self.compiled_batch_size)
        self.objective = cast(Objective, objective_module(self.recipe.objective.name))
        self.perturbation = WeightPerturbation(self.model, self.recipe.perturbation, self.reduce)

    def __call__(
        self, x_NCHW: Tensor, y: Tensor, *, epsilon_fraction: float, perturb: bool, share: float = 1.0
    ) -> Terms:
        """Update the weights once on a batch.

        ``epsilon_fraction``: the current fraction of epsilon, in [0, 1]. ``perturb``: whether weight
        perturbation is on. ``share``: this process's images over the mean of all processes'; losses
        weighted by it average to the loss of the joined batch. The order within a batch is that of the
        authors' code: attack at w, v from x', loss and gradient at w+v.
        """
        regularised = perturb and self.recipe.perturbation.regulariser != "none"
        self.optimiser.zero_grad(set_to_none=True)
        with self.perturbation.scope():
            if perturb:
                adv_NCHW = self._perturb(x_NCHW, y, epsilon_fraction, share)
            else:
                adv_NCHW = self.attack(x_NCHW, y, epsilon_fraction)
            with self.passes.frozen_batchnorm_stats() if regularised else nullcontext():
                terms = self._backward(x_NCHW, adv_NCHW, y, share)
            if not regularised:
                self.perturbation.add_decay_of_perturbation(weight_decay_of(self.optimiser))
        if regularised:
            terms = self._regularise(terms, x_NCHW, adv_NCHW, y, share)
        if self.reduce is not None:
            self.reduce(self._gradients())
        if self.recipe.optimiser.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimiser.clip)
        self.optimiser.step()
        if self.recipe.training.natural_forward:
            with torch.no_grad():
                self.passes.with_weight_gradients(x_NCHW)
        return terms

    def attack(self, x_NCHW: Tensor, y: Tensor, epsilon_fraction: float) -> Tensor:
        """Adversarial images x' at the current weights; leaves the model in train mode."""
        recipe = self.recipe
        adv_NCHW = x_NCHW
        if recipe.inner.steps:
            self.model.train(recipe.inner.batch_norm == "train")
            forward = self.passes.with_frozen_weights()
            loss = self.objective.attack_loss(forward, x_NCHW, y, recipe.objective)
            radius = float(recipe.threat.eps) * epsilon_fraction
            with unsynchronised(self.model):
                adv_NCHW = maximise(
                    forward,
                    loss,
                    x_NCHW,
                    norm=recipe.threat.norm,
                    radius=radius,
                    inner=recipe.inner,
                    replicate=recipe.replicate,
                )
        self.model.train()
        return adv_NCHW

    def _terms(self, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor) -> Terms:
        forward = RepeatedPasses(self.model, self.passes.with_weight_gradients)
        return self.objective.loss(forward, x_NCHW, adv_NCHW, y, self.recipe.objective)

    def _perturb(self, x_NCHW: Tensor, y: Tensor, epsilon_fraction: float, share: float) -> Tensor:
        """Algorithm 2: alternate x' and v. The passes for v do not change BatchNorm's statistics."""
        for _ in range(self.recipe.perturbation.alternations):
            adv_NCHW = self.attack(x_NCHW, y, epsilon_fraction)
            with self.passes.frozen_batchnorm_stats():
                self.perturbation.ascend(partial(self._loss, x_NCHW, adv_NCHW, y, share))
        return adv_NCHW

    def _loss(self, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, share: float) -> Tensor:
        return self._terms(x_NCHW, adv_NCHW, y).loss * share

    def _backward(self, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, share: float) -> Terms:
        """Loss and gradients at the current weights. The L1 penalty does not contribute to v."""
        terms = self._terms(x_NCHW, adv_NCHW, y)
        total = loss = terms.loss * share
        if self.recipe.optimiser.l1:
            total = total + l1_penalty(self.model, self.recipe.optimiser.l1)
        torch.autograd.backward(total)
        return Terms(loss.detach(), terms.logits_NK.detach())

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.model.parameters() if p.grad is not None]

    def _regularise(
        self, perturbed: Terms, x_NCHW: Tensor, adv_NCHW: Tensor, y: Tensor, share: float
    ) -> Terms:
        """Gradients of rho(w) + strength * |rho(w+v) - rho(w)| (or its square), with v fixed.

        Expects the gradients at w+v in ``.grad`` and the weights restored to w. This variant was proposed
        by a reviewer of the AWP paper.
        """
        perturbed_gradients = [g.clone() for g in self._gradients()]
        self.optimiser.zero_grad(set_to_none=False)
        terms = self._backward(x_NCHW, adv_NCHW, y, share)
        rise = perturbed.loss - terms.loss
        if self.reduce is not None:
            self.reduce([rise])
        config = self.recipe.perturbation
        derivative = config.strength * (rise.sign() if config.regulariser == "absolute" else 2 * rise)
        with torch.no_grad():
            for gradient, other in zip(self._gradients(), perturbed_gradients, strict=True):
                gradient.add_(derivative * (other - gradient))
        return terms
