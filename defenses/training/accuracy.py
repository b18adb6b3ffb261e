"""Accuracy at the weights w themselves, in eval mode: never at w+v, never in train mode.

Training columns of an AWP run that are taken from its updates are those of perturbed weights; a
robust generalisation gap must not be read off them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defenses.objectives import Forward
from defenses.recipes.recipe import Recipe
from defenses.recipes.sections import Inner
from defenses.training.batches import ImagePool
from defenses.training.inner_maximisation import maximise
from defenses.training.runtime import Runtime
from robust_eval.core.seeds import derive

BATCH = 250


@dataclass(frozen=True)
class Accuracies:
    """Fractions of all images; an image that is wrong without an attack is not robust."""

    clean: float
    pgd: float
    one_class: bool
    """All clean predictions name the same class."""


def attack(recipe: Recipe) -> Inner:
    """PGD with uniform start inside the ball, the last iterate, in eval mode."""
    return Inner(
        steps=recipe.selection.steps,
        step_size=recipe.selection.step_size,
        start="uniform",
        start_size=Fraction(1),
        restarts=1,
        project=True,
        batch_norm="eval",
    )


def measure_accuracies(
    model: nn.Module,
    pool: ImagePool,
    recipe: Recipe,
    forward: Forward,
    check: Callable[[], None] = lambda: None,
    runtime: Runtime | None = None,
) -> Accuracies:
    """Clean and PGD accuracy under the full epsilon, whatever the schedule's budget.

    ``forward`` may compute in reduced precision and only guides the attack; predictions are the
    model's own in float32. The noise is the same every time and on any number of devices. With several
    processes (``runtime``) each takes some of the batches, every image is looked at once, and all get
    the same figures.
    ``check`` is called between batches and may raise. The caller's random state is kept.
    """
    was_training = model.training
    model.eval()
    rank, world = (runtime.rank, runtime.world) if runtime is not None else (0, 1)
    # Right without an attack, right under it; images, and the sums of predictions and of their squares.
    counts = torch.zeros(5, dtype=torch.int64, device=pool.y_N.device)
    try:
        with torch.random.fork_rng():
            for start in range(rank * BATCH, pool.n, world * BATCH):
                check()
                torch.manual_seed(derive(0, "measure", str(start)))
                x_NCHW, y_N = pool.batch(torch.arange(start, min(start + BATCH, pool.n)))
                predicted_N = _predict(model, x_NCHW)
                right = predicted_N == y_N
                robust = _survivors(model, x_NCHW[right], y_N[right], recipe, forward)
                seen = [len(y_N), int(predicted_N.sum()), int(predicted_N.square().sum())]
                counts += torch.tensor([int(right.sum()), robust, *seen], device=counts.device)
    finally:
        model.train(was_training)
    clean, robust, n, first, second = (runtime.add(counts) if runtime is not None else counts).tolist()
    # No spread: one class for all.
    return Accuracies(clean / max(n, 1), robust / max(n, 1), n > 0 and n * second == first**2)


@torch.no_grad()
def _predict(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    return cast(Tensor, model(x_NCHW)).argmax(1)


def _survivors(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, recipe: Recipe, forward: Forward) -> int:
    if not len(y_N):
        return 0

    def loss(logits_NK: Tensor) -> Tensor:
        return F.cross_entropy(logits_NK, y_N, reduction="none")

    radius = float(recipe.threat.eps)
    adv_NCHW = maximise(forward, loss, x_NCHW, norm=recipe.threat.norm, radius=radius, inner=attack(recipe))
    return int((_predict(model, adv_NCHW) == y_N).sum())
