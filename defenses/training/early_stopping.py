"""Which epoch is the best, and when a run has stopped being worth its time. Changes ``TrainingProgress`` alone."""

from __future__ import annotations

from pathlib import Path

from defenses.recipes.recipe import Recipe
from defenses.training.accuracy import Accuracies
from defenses.training.signals import UntrainableError
from defenses.training.state import TrainingProgress


def select_checkpoint(
    progress: TrainingProgress, recipe: Recipe, found: dict[str, Accuracies], *, held_out: bool
) -> bool:
    """Whether the epoch under way is the best so far, by strict improvement on the validation images.

    The score is PGD accuracy, or clean accuracy where the recipe trains without an attack. Where no
    images are held out the latest epoch is the best.
    """
    watched = found.get("val") or found.get("train")
    if watched is not None:
        progress.one_class = progress.one_class + 1 if watched.one_class else 0
    if not held_out:
        progress.best_epoch = progress.epoch + 1
        return True
    if "val" not in found:
        return False
    score = found["val"].pgd if recipe.inner.steps else found["val"].clean
    if score > progress.best:
        progress.best, progress.best_epoch, progress.worse = score, progress.epoch + 1, 0
        return True
    if progress.epoch >= recipe.selection.patience_from * recipe.training.epochs:
        progress.worse += 1
    return False


def patience_exhausted(progress: TrainingProgress, recipe: Recipe) -> bool:
    return 0 < recipe.selection.patience <= progress.worse


def check_collapse(progress: TrainingProgress, recipe: Recipe, folder: Path) -> None:
    """Raise once every image has been given the same class often enough in a row."""
    limit = recipe.selection.collapse_after
    if not limit or progress.one_class < limit:
        return
    since = progress.epoch - (progress.one_class - 1) * recipe.selection.every
    tips = "a lower optimiser.lr, or a budget that grows (budget.kind=linear)"
    if recipe.perturbation.kind != "none":
        tips += ", or a smaller perturbation.gamma with a longer perturbation.warmup"
    raise UntrainableError(
        f"The network has named one class for every image since epoch {since}: it has collapsed. "
        f"Look at epoch {max(since - 1, 1)} in {folder}/curve.csv, and try {tips}; "
        "selection.collapse_after=0 trains on regardless."
    )
