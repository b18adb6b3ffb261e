"""From what a user typed to a job: load the data, split it, refuse what cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defenses.recipes.recipe import Recipe
from defenses.recipes.resolve import resolve
from defenses.training import initial_weights
from defenses.training.batches import check_alike
from defenses.training.options import TrainOptions
from defenses.training.runtime import PRECISIONS
from robust_eval import data
from robust_eval.core import image_sketch
from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError, unknown
from robust_eval.core.types import Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.acceleration import compilation
from robust_eval.models.loading import python_architecture
from robust_eval.models.normalisation import NORMALISATIONS, parse_normalisation


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training run, fully decided; nothing has been computed yet."""

    options: TrainOptions
    recipe: Recipe
    sources: Mapping[str, str]
    folder: Path
    train: ImageSet
    """Without the validation images."""
    validation: ImageSet | None
    test: ImageSet | None
    extra: ImageSet | None
    pseudo: ImageSet | None
    normalisation: Normalisation
    left_out: int = 0
    """Extra and pseudo-labelled images that are among the held-out or the test images."""

    @cached_property
    def trained_on(self) -> dict[str, Any]:
        """A sketch of every image that is trained on, for the checkpoints."""
        return image_sketch.sketch(s.x_NHWC for s in (self.train, self.extra, self.pseudo) if s is not None)

    @cached_property
    def drawn_from(self) -> dict[str, Any]:
        """Fingerprints of the image sets, and the hash of the initial weights."""
        sets = {
            "train": self.train,
            "validation": self.validation,
            "extra": self.extra,
            "pseudo": self.pseudo,
        }
        init = self.options.init
        return {
            "data": {name: images.slice().fingerprint for name, images in sets.items() if images},
            "init": initial_weights.fingerprint(init) if init is not None else None,
        }

    def identity(self) -> dict[str, Any]:
        """Everything the result depends on; a run folder belongs to one identity."""
        options, architecture = self.options, self.recipe.architecture
        own = python_architecture.is_python_file(architecture)
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            **({"code_sha256": python_architecture.sha256(architecture)} if own else {}),
            **self.drawn_from,
            "seed": options.seed,
            "precision": options.precision,
            "devices": options.devices * options.nodes,
        }


def prepare(options: TrainOptions) -> TrainingJob:
    resolved = resolve(options.recipe, options.choices)
    recipe, spec = resolved.recipe, options.choices.data
    if options.precision not in PRECISIONS:
        raise unknown("precision", options.precision, PRECISIONS)
    compilation.parse(options.compile, pick_device(options.device))
    if options.seed < 0:
        raise UserError(f"--seed must be 0 or more, got {options.seed}.")
    _no_contradictions(recipe, options)
    whole = data.load(spec, root=options.data_root, split="train")
    _suitable(recipe, whole, spec)
    train, validation = hold_out(whole, recipe.selection.validation)
    test, whole_test = None, None
    if recipe.selection.test_images:
        if whole.split == "all":
            raise UserError(
                f"{spec} has no test images of its own, and selection.test_images would measure training "
                "images: set it to 0, or give a folder with train and test."
            )
        whole_test = data.load(spec, root=options.data_root, split="test")
        test = whole_test.take(min(recipe.selection.test_images, whole_test.n))
    world = options.devices * options.nodes
    if world > 1 and recipe.training.batch_size < 2 * world:
        raise UserError(
            f"training.batch_size is {recipe.training.batch_size}, too few for {world} processes: give each "
            "at least two images, or use fewer --devices."
        )
    if recipe.training.batch_size > train.n:
        raise UserError(
            f"training.batch_size is {recipe.training.batch_size}, but {train.n} training images are left "
            f"of {spec}: set a smaller one."
        )
    extra = _more(options.extra_data, "--extra-data", whole, options.data_root)
    pseudo = _more(options.unlabelled, "--unlabelled", whole, options.data_root)
    kept_extra, kept_pseudo = extra, pseudo
    if extra is not None or pseudo is not None:
        unseen = [s for s in (validation, whole_test or _test_split(whole, options)) if s is not None]
        forbidden = image_sketch.hashes_of(s.x_NHWC for s in unseen)
        kept_extra = _without(extra, forbidden, "--extra-data")
        kept_pseudo = _without(pseudo, forbidden, "--unlabelled")
    return TrainingJob(
        options=options,
        recipe=recipe,
        sources=resolved.sources,
        folder=options.out or default_folder(options, recipe),
        train=train,
        validation=validation,
        test=test,
        extra=kept_extra,
        pseudo=kept_pseudo,
        normalisation=_normalisation(recipe, whole),
        left_out=_count(extra, pseudo) - _count(kept_extra, kept_pseudo),
    )


def default_folder(options: TrainOptions, recipe: Recipe) -> Path:
    """``runs/<recipe>-<data>-<architecture>-s<seed>``."""
    scheme, _, argument = options.choices.data.partition(":")
    parts = [recipe.name, Path(argument).stem or scheme, Path(recipe.architecture).stem, f"s{options.seed}"]
    return Path("runs") / "-".join(parts)


def hold_out(images: ImageSet, n: int) -> tuple[ImageSet, ImageSet | None]:
    """Training and validation images: n of a seed-0 permutation (Rice et al.), at most a fifth."""
    n = min(n, images.n // 5)
    if not n:
        return images, None
    order = np.random.RandomState(0).permutation(images.n)
    return images.subset(np.sort(order[n:])), images.subset(np.sort(order[:n]))


def _more(spec: str | None, option: str, base: ImageSet, root: Path | None) -> ImageSet | None:
    if spec is None:
        return None
    images = data.load(
        spec if ":" in spec or not spec.endswith(".npz") else f"npz:{spec}", root=root, split="train"
    )
    check_alike(base, images, option)
    return images


def _test_split(whole: ImageSet, options: TrainOptions) -> ImageSet | None:
    """The test images that belong to ``whole``; None where there are none."""
    if whole.split == "all":
        return None
    try:
        return data.load(options.choices.data, root=options.data_root, split="test")
    except UserError:  # a folder may have a train folder alone
        return None


def _without(more: ImageSet | None, forbidden: NDArray[np.uint64], option: str) -> ImageSet | None:
    """``more`` without the images, by hash, that choose the epoch or belong to the test."""
    if more is None:
        return None
    kept = np.flatnonzero(~np.isin(image_sketch.hashes(more.x_NHWC), forbidden))
    if not len(kept):
        raise UserError(f"{option} holds held-out and test images of the data alone: give others.")
    return more if len(kept) == more.n else more.subset(kept)


def _count(*sets: ImageSet | None) -> int:
    return sum(images.n for images in sets if images is not None)


def _suitable(recipe: Recipe, images: ImageSet, spec: str) -> None:
    """A UserError where the images cannot be learned from, or the augmentation hides them."""
    if images.classes < 2:
        raise UserError(f"{spec} has one class: training needs at least two.")
    side = min(images.image_size)
    for name in ("cutout", "crop_padding"):
        if getattr(recipe.augment, name) >= side:
            raise UserError(
                f"augment.{name} = {getattr(recipe.augment, name)} can hide a whole image of {spec} "
                f"({side} pixels): set it below {side}."
            )


def _no_contradictions(recipe: Recipe, options: TrainOptions) -> None:
    named = {"--init": options.init, "--extra-data": options.extra_data, "--unlabelled": options.unlabelled}
    for option, value in named.items():
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


def _normalisation(recipe: Recipe, images: ImageSet) -> Normalisation:
    name = recipe.normalisation
    if name == "dataset":
        name = images.name if images.name in NORMALISATIONS else "none"
    return parse_normalisation(name, images.channels)
