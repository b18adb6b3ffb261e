"""Clean and PGD accuracy of the unperturbed weights w, in eval mode.

The training accuracy of AWP's updates is that of perturbed weights w+v in train mode; it must not be used
for the robust generalisation gap.
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
    """Fractions of all images; an image that is misclassified without an attack is not robust."""

    clean: float
    pgd: float
    one_class: bool
    """Whether all clean predictions are the same class."""


def validation_attack(recipe: Recipe) -> Inner:
    """PGD with a uniform start in the ball, last iterate, eval mode."""
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
    """Clean and PGD accuracy of ``model`` at the full epsilon, regardless of the epsilon schedule.

    ``forward`` is used by the attack only and may compute in reduced precision; predictions are made by
    ``model`` in float32. The noise depends only on the position of the batch. With several processes
    (``runtime``) each takes part of the batches and all return the same result. ``check`` is called
    between batches and may raise. The global random state and the model's mode are restored.
    """
    was_training = model.training
    model.eval()
    rank, world = (runtime.rank, runtime.world) if runtime is not None else (0, 1)
    # Correct without attack, correct under attack, images, sum of predictions, sum of their squares.
    counts = torch.zeros(5, dtype=torch.int64, device=pool.y_N.device)
    try:
        with torch.random.fork_rng():
            for start in range(rank * BATCH, pool.n, world * BATCH):
                check()
                torch.manual_seed(derive(0, "measure", str(start)))
                x_NCHW, y_N = pool.batch(torch.arange(start, min(start + BATCH, pool.n)))
                predicted_N = _predict(model, x_NCHW)
                correct = predicted_N == y_N
                robust = _robust(model, x_NCHW[correct], y_N[correct], recipe, forward)
                counted = (correct, robust, torch.ones_like(y_N), predicted_N, predicted_N.square())
                counts += torch.stack([numbers.sum() for numbers in counted])
    finally:
        model.train(was_training)
    clean, robust, n, first, second = (runtime.sum(counts) if runtime is not None else counts).tolist()
    # Zero variance of the predictions: one class for all.
    return Accuracies(clean / max(n, 1), robust / max(n, 1), n > 0 and n * second == first**2)


@torch.no_grad()
def _predict(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    return cast(Tensor, model(x_NCHW)).argmax(1)


def _robust(model: nn.Module, x_NCHW: Tensor, y_N: Tensor, recipe: Recipe, forward: Forward) -> Tensor:
    """Whether each image is classified correctly under attack, shape (N,)."""

    def loss(logits_NK: Tensor) -> Tensor:
        return F.cross_entropy(logits_NK, y_N, reduction="none")

    if not len(y_N):
        return torch.zeros_like(y_N)
    radius = float(recipe.threat.eps)
    adv_NCHW = maximise(
        forward, loss, x_NCHW, norm=recipe.threat.norm, radius=radius, inner=validation_attack(recipe)
    )
    return _predict(model, adv_NCHW) == y_N
