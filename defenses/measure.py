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

from defenses.data_mix import Pool
from defenses.inner_max import maximise
from defenses.objectives import Forward
from defenses.recipe import Recipe
from defenses.sections import Inner
from robust_eval.core.seeds import derive

BATCH = 250


@dataclass(frozen=True)
class Measured:
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


def measure(
    model: nn.Module,
    pool: Pool,
    recipe: Recipe,
    forward: Forward,
    check: Callable[[], None] = lambda: None,
) -> Measured:
    """Clean and PGD accuracy under the full epsilon, whatever the schedule's budget.

    ``forward`` may compute in reduced precision and only guides the attack; predictions are the
    model's own in float32. The noise is the same every time, so epochs can be compared.
    ``check`` is called between batches and may raise. The caller's random state is kept.
    """
    was_training = model.training
    model.eval()
    clean = robust = 0
    seen: Tensor | None = None
    try:
        with torch.random.fork_rng():
            torch.manual_seed(derive(0, "measure"))
            for start in range(0, pool.n, BATCH):
                check()
                x_NCHW, y_N = pool.batch(torch.arange(start, min(start + BATCH, pool.n)))
                predicted_N = _predict(model, x_NCHW)
                ones = torch.bincount(predicted_N, minlength=1).nonzero()[:, 0]
                seen = ones if seen is None else torch.cat([seen, ones])
                right = predicted_N == y_N
                clean += int(right.sum())
                robust += _survivors(model, x_NCHW[right], y_N[right], recipe, forward)
    finally:
        model.train(was_training)
    classes_seen = 0 if seen is None else len(set(seen.tolist()))
    return Measured(clean / max(pool.n, 1), robust / max(pool.n, 1), classes_seen == 1)


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
