"""Where a data set or a norm changes a recipe: the published value for that case, and where it is from."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from defenses.recipes.choices import Choices
from defenses.recipes.resolve import resolve

PREACT = "preact-resnet-18"
SETTINGS: list[tuple[str, str, str, str, Any, str]] = [
    # recipe, data, norm, field, value, where it is from
    ("at", "svhn", "Linf", "architecture", PREACT, "AWP paper section 4.4"),
    ("at-awp", "cifar100", "L2", "architecture", PREACT, "AWP paper section 4.4"),
    ("at", "cifar10", "L2", "inner.step_size", Fraction(15, 128), "AWP paper section 4.4"),
    ("at", "svhn", "Linf", "inner.step_size", Fraction(1, 8), "AWP paper section 4.4"),
    ("at", "cifar100", "Linf", "augment.rotation", 15.0, "AWP authors' CIFAR-100 code"),
    ("at-awp", "svhn", "Linf", "perturbation.warmup", Fraction(1, 40), "AWP authors' SVHN code"),
    ("at-awp", "svhn", "L2", "perturbation.warmup", Fraction(1, 40), "AWP authors' SVHN code"),
    ("at", "svhn", "L2", "inner.start", "uniform", "replicate.wide_start"),
    ("trades", "cifar10", "Linf", "objective.passes", "natural-adversarial-natural", "passes in train mode"),
    ("trades-awp", "cifar10", "Linf", "objective.passes", "adversarial-natural-natural", "AWP authors'"),
    ("rst", "cifar10", "Linf", "objective.passes", "adversarial-natural", "RST authors' code"),
    ("trades", "cifar10", "L2", "inner.step_size", Fraction(1, 5), "2 epsilon / 10"),
    ("trades-awp", "cifar10", "L2", "inner.step_size", Fraction(1, 5), "2 epsilon / 10"),
    ("trades-awp", "cifar100", "Linf", "augment.rotation", 0.0, "crop and flip only"),
    ("trades-awp", "cifar100", "Linf", "architecture", "wrn-34-10", "released CIFAR-100 model"),
    ("trades", "svhn", "Linf", "architecture", PREACT, "this project"),
    ("trades", "mnist", "Linf", "objective.beta", 1.0, "TRADES authors' MNIST code"),
    ("mart", "cifar100", "Linf", "augment.rotation", 0.0, "this project"),
    ("mart-awp", "svhn", "Linf", "architecture", PREACT, "this project"),
    ("rst", "cifar100", "Linf", "augment.rotation", 0.0, "crop and flip only"),
    ("rst", "svhn", "Linf", "optimiser.lr", 0.1, "RST authors' code"),
    ("rst-awp", "svhn", "Linf", "inner.step_size", Fraction(1, 4), "RST authors' code"),
    ("rst", "svhn", "Linf", "architecture", "wrn-28-10", "RST authors' code"),
    ("pretraining", "cifar100", "Linf", "augment.rotation", 0.0, "crop and flip only"),
    ("pretraining", "cifar10", "Linf", "inner.start", "uniform", "replicate.ball_around_start"),
    ("imagenet-pretraining", "cifar10", "Linf", "training.epochs", 100, "ImageNet script"),
    ("imagenet-pretraining", "cifar10", "Linf", "training.batch_size", 256, "ImageNet script"),
    ("fgsm-rs", "cifar100", "Linf", "augment.rotation", 0.0, "this project"),
    ("at-pas", "cifar100", "Linf", "augment.rotation", 0.0, "this project"),
    ("at-pas", "mnist", "Linf", "architecture", "lenet", "LeNet of width 16"),
    ("at-pas", "mnist", "Linf", "threat.eps", Fraction(2, 5), "Liu et al.: 0.4"),
    ("at-pas", "mnist", "Linf", "inner.steps", 50, "command for MNIST"),
    ("at-pas", "mnist", "Linf", "inner.step_size", Fraction(1, 40), "command for MNIST"),
    ("at-pas", "mnist", "Linf", "optimiser.name", "adam", "command for MNIST"),
    ("at-pas", "mnist", "Linf", "optimiser.lr", 1e-4, "command for MNIST"),
    ("at-pas", "mnist", "Linf", "schedule.periods", (), "command for MNIST"),
    ("at-pas", "mnist", "Linf", "budget.peak", Fraction(3, 2), "command for MNIST"),
    ("at-pas", "cifar10", "Linf", "budget.peak", Fraction(2), "no source tells which was run"),
]


@pytest.mark.parametrize(("recipe", "data", "norm", "field", "value", "source"), SETTINGS)
def test_the_setting_and_its_source(
    recipe: str, data: str, norm: str, field: str, value: Any, source: str
) -> None:
    found = resolve(recipe, Choices(data=data, norm=norm))
    section, _, name = field.rpartition(".")
    assert getattr(getattr(found.recipe, section) if section else found.recipe, name) == value
    assert source in found.sources[field]
