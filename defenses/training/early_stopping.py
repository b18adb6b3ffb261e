"""Checkpoint selection, early stopping and the check for collapse. Changes only ``TrainingProgress``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from defenses.recipes.recipe import Recipe
from defenses.training.accuracy import Accuracies
from defenses.training.signals import UntrainableError
from defenses.training.state import TrainingProgress


def select_checkpoint(
    progress: TrainingProgress, recipe: Recipe, accuracies: Mapping[str, Accuracies], *, held_out: bool
) -> bool:
    """Whether the current epoch is the best so far: strictly higher score on the validation images.

    The score is PGD accuracy, or clean accuracy if the recipe trains without an attack. Without
    validation images (``held_out`` False) the latest epoch is the best.
    """
    measured = accuracies.get("val") or accuracies.get("train")
    if measured is not None:
        progress.one_class = progress.one_class + 1 if measured.one_class else 0
    if not held_out:
        progress.best_epoch = progress.epoch + 1
        return True
    if "val" not in accuracies:
        return False
    score = accuracies["val"].pgd if recipe.inner.steps else accuracies["val"].clean
    if score > progress.best:
        progress.best, progress.best_epoch, progress.worse = score, progress.epoch + 1, 0
        return True
    if progress.epoch >= recipe.selection.patience_from * recipe.training.epochs:
        progress.worse += 1
    return False


def patience_exhausted(progress: TrainingProgress, recipe: Recipe) -> bool:
    """Whether ``selection.patience`` measurements in a row were no improvement (0: never)."""
    return 0 < recipe.selection.patience <= progress.worse


def check_collapse(progress: TrainingProgress, recipe: Recipe, folder: Path) -> None:
    """Raise UntrainableError after ``selection.collapse_after`` measurements with a single class."""
    limit = recipe.selection.collapse_after
    if not limit or progress.one_class < limit:
        return
    since = progress.epoch - (progress.one_class - 1) * recipe.selection.every
    tips = "a lower optimiser.lr, or an epsilon that grows (budget.kind=linear)"
    if recipe.perturbation.kind != "none":
        tips += ", or a smaller perturbation.gamma with a longer perturbation.warmup"
    raise UntrainableError(
        f"The network has predicted one class for every image since epoch {since}: it has collapsed. "
        f"Look at epoch {max(since - 1, 1)} in {folder}/curve.csv, and try {tips}; "
        "selection.collapse_after=0 turns this check off."
    )
