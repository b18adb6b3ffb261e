"""Checks of a training job before anything is computed. Each raises UserError with advice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from defenses.recipes.recipe import Recipe
from defenses.runs.learning_curve import check_tensorboard
from defenses.training.runtime import PRECISIONS
from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError, unknown
from robust_eval.data import ImageSet
from robust_eval.models.acceleration import compilation

if TYPE_CHECKING:
    from defenses.training.options import TrainOptions


def check_options(recipe: Recipe, options: TrainOptions) -> None:
    """Values that are invalid or contradict the recipe."""
    if options.precision not in PRECISIONS:
        raise unknown("precision", options.precision, PRECISIONS)
    compilation.parse(options.compile, pick_device(options.device))
    if options.tensorboard:
        check_tensorboard()
    if options.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {options.seed}.")
    files = {"--init": options.init, "--extra-data": options.extra_data, "--unlabelled": options.unlabelled}
    for option, value in files.items():
        if value is not None and not value.strip():
            raise UserError(f"{option} is empty: name a file, or leave it out.")
    if recipe.training.unlabelled and options.unlabelled is None:
        raise UserError(
            f"Recipe {recipe.name} needs pseudo-labelled images: make them with defenses pseudo-label and "
            "give them with --unlabelled FILE, or set training.unlabelled=0."
        )
    if options.unlabelled is not None and not recipe.training.unlabelled:
        raise UserError(
            f"Recipe {recipe.name} uses no pseudo-labelled images: choose rst or rst-awp, set "
            "training.unlabelled=1/2, or give the file with --extra-data."
        )
    if recipe.training.fresh_head and options.init is None:
        raise UserError(
            f"Recipe {recipe.name} starts from a pre-trained network: give it with --init ckpt.pt, or set "
            "training.fresh_head=false to start from scratch."
        )


def check_images(recipe: Recipe, images: ImageSet, spec: str) -> None:
    """Images with a single class, or smaller than the augmentation needs."""
    if images.classes < 2:
        raise UserError(f"{spec} has one class: training needs at least two.")
    side = min(images.image_size)
    for name in ("cutout", "crop_padding"):
        if getattr(recipe.augment, name) >= side:
            raise UserError(
                f"augment.{name} = {getattr(recipe.augment, name)} can hide a whole image of {spec} "
                f"({side} pixels): set it below {side}."
            )


def check_batch_size(recipe: Recipe, options: TrainOptions, train: ImageSet) -> None:
    """Batches with fewer than two images per process, or larger than the training set."""
    processes, batch_size = options.devices * options.nodes, recipe.training.batch_size
    if processes > 1 and batch_size < 2 * processes:
        raise UserError(
            f"training.batch_size is {batch_size}, too few for {processes} processes: give each "
            "at least two images, or use fewer --devices."
        )
    if batch_size > train.n:
        raise UserError(
            f"training.batch_size is {batch_size}, but {train.n} training images are left "
            f"of {options.choices.data}: set a smaller one."
        )
