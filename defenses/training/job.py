"""Turn the options of ``defenses train`` into a job: resolve the recipe, check, load and split the images."""

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
from defenses.training.batches import check_compatible
from defenses.training.job_checks import check_batch_size, check_images, check_options
from defenses.training.options import TrainOptions
from robust_eval import data
from robust_eval.core import image_sketch
from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.data import ImageSet
from robust_eval.models.loading import network_sources
from robust_eval.models.loading.python_architecture import DIGEST
from robust_eval.models.normalisation import NORMALISATIONS, parse_normalisation


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Everything that determines a training run; nothing has been computed yet."""

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
    """Number of extra and pseudo-labelled images removed because they are validation or test images."""

    @cached_property
    def trained_on(self) -> dict[str, Any]:
        """Sketch (hashes) of all training images; checkpoints store it to detect overlap with test images."""
        return image_sketch.sketch(s.x_NHWC for s in (self.train, self.extra, self.pseudo) if s is not None)

    @cached_property
    def architecture(self) -> Architecture:
        """As checkpoints record it; the digest of code is that at the start of the run."""
        name, arguments = self.recipe.architecture, self.recipe.architecture_arguments
        if not network_sources.is_external(name):
            return Architecture(name, arguments)
        known = network_sources.identity(name)
        return Architecture(known.id, {**arguments, **known.arguments})

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """Fingerprints of the image sets and the hash of the initial weights."""
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
        options, digest = self.options, self.architecture.arguments.get(DIGEST)
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            **({DIGEST: digest} if digest else {}),
            **self.inputs,
            "seed": options.seed,
            "precision": options.precision,
            "devices": options.devices * options.nodes,
        }


def prepare(options: TrainOptions) -> TrainingJob:
    """Resolve the recipe, check the options, load and split the images.

    Raises UserError if the options contradict each other or do not fit the recipe or the images.
    """
    resolved = resolve(options.recipe, options.choices)
    recipe = resolved.recipe
    check_options(recipe, options)
    images = data.load(options.choices.data, root=options.data_root, split="train")
    check_images(recipe, images, options.choices.data)
    train, validation = hold_out(images, recipe.selection.validation)
    test_split = _load_measured_test_split(recipe, images, options)
    check_batch_size(recipe, options, train)
    additional = _load_additional(images, options)
    clean = _without_unseen(additional, images, (validation, test_split), options)
    return TrainingJob(
        options=options,
        recipe=recipe,
        sources=resolved.sources,
        folder=options.out or default_folder(options, recipe),
        train=train,
        validation=validation,
        test=test_split.take(min(recipe.selection.test_images, test_split.n)) if test_split else None,
        extra=clean.extra,
        pseudo=clean.pseudo,
        normalisation=_normalisation(recipe, images),
        left_out=additional.n - clean.n,
    )


def default_folder(options: TrainOptions, recipe: Recipe) -> Path:
    """``runs/<recipe>-<data>-<architecture>-s<seed>``."""
    scheme, _, argument = options.choices.data.partition(":")
    parts = [recipe.name, Path(argument).stem or scheme, Path(recipe.architecture).stem, f"s{options.seed}"]
    return Path("runs") / "-".join(parts)


def hold_out(images: ImageSet, n: int) -> tuple[ImageSet, ImageSet | None]:
    """Training and validation images: n of a seed-0 permutation (Rice et al. 2020), at most a fifth."""
    n = min(n, images.n // 5)
    if not n:
        return images, None
    order = np.random.RandomState(0).permutation(images.n)
    return images.subset(np.sort(order[n:])), images.subset(np.sort(order[:n]))


def _load_measured_test_split(recipe: Recipe, images: ImageSet, options: TrainOptions) -> ImageSet | None:
    """The test images if ``selection.test_images`` asks for their accuracy."""
    if not recipe.selection.test_images:
        return None
    spec = options.choices.data
    if images.split == "all":
        raise UserError(
            f"{spec} has no test images of its own, and selection.test_images would measure training "
            "images: set it to 0, or give a folder with train and test."
        )
    return data.load(spec, root=options.data_root, split="test")


@dataclass(frozen=True)
class _Additional:
    """Labelled and pseudo-labelled images beside the dataset's own."""

    extra: ImageSet | None
    pseudo: ImageSet | None

    @property
    def n(self) -> int:
        return sum(images.n for images in (self.extra, self.pseudo) if images is not None)


def _load_additional(images: ImageSet, options: TrainOptions) -> _Additional:
    def load(spec: str | None, option: str) -> ImageSet | None:
        if spec is None:
            return None
        spec = spec if ":" in spec or not spec.endswith(".npz") else f"npz:{spec}"
        loaded = data.load(spec, root=options.data_root, split="train")
        check_compatible(images, loaded, option)
        return loaded

    extra = load(options.extra_data, "--extra-data")
    return _Additional(extra, load(options.unlabelled, "--unlabelled"))


def _without_unseen(
    additional: _Additional,
    images: ImageSet,
    unseen: tuple[ImageSet | None, ImageSet | None],
    options: TrainOptions,
) -> _Additional:
    """The additional images that are neither validation nor test images, compared by hash.

    ``unseen``: validation and test images; test images are loaded here if they were not measured.
    """
    if additional.extra is None and additional.pseudo is None:
        return additional
    validation, test = unseen
    sets = [s for s in (validation, test or _load_test_split(images, options)) if s is not None]
    forbidden = image_sketch.hashes_of_all(s.x_NHWC for s in sets)
    return _Additional(
        _without(additional.extra, forbidden, "--extra-data"),
        _without(additional.pseudo, forbidden, "--unlabelled"),
    )


def _load_test_split(images: ImageSet, options: TrainOptions) -> ImageSet | None:
    """The test images of the same dataset; None if it has none."""
    if images.split == "all":
        return None
    try:
        return data.load(options.choices.data, root=options.data_root, split="test")
    except UserError:  # a folder may contain only a train folder
        return None


def _without(images: ImageSet | None, forbidden: NDArray[np.uint64], option: str) -> ImageSet | None:
    if images is None:
        return None
    allowed = np.flatnonzero(~np.isin(image_sketch.hashes(images.x_NHWC), forbidden))
    if not len(allowed):
        raise UserError(f"{option} contains only validation and test images of the data: give others.")
    return images if len(allowed) == images.n else images.subset(allowed)


def _normalisation(recipe: Recipe, images: ImageSet) -> Normalisation:
    name = recipe.normalisation
    if name == "dataset":
        name = images.name if images.name in NORMALISATIONS else "none"
    return parse_normalisation(name, images.channels)
