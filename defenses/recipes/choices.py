"""The options of ``defenses`` that change a recipe. Imports nothing heavy: ``--help`` reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robust_eval.core.command_options import option

RECIPE, DATA = "Recipe", "Data"
"""Panels of ``--help``."""


@dataclass(frozen=True)
class Choices:
    """The dataset, which selects a recipe's variants, and the values given on the command line.

    None keeps the recipe's own value.
    """

    data: str = option(
        "cifar10",
        "Any dataset of robust-eval run, such as cifar10, tiny-imagenet, hf:NAME or folder:DIR.",
        panel=DATA,
    )
    arch: str | None = option(
        None,
        "Architecture id, timm:NAME or torchvision:NAME, or path.py:function or package.module:function, "
        "whose code is run.",
        panel=RECIPE,
    )
    norm: str | None = option(None, "Linf or L2.", panel=RECIPE)
    eps: str | None = option(
        None, "Epsilon for pixels in [0, 1], for example 8/255; step sizes scale with it.", panel=RECIPE
    )
    epochs: int | None = option(None, "Number of epochs; schedules and warm-ups scale with it.", panel=RECIPE)
    batch_size: int | None = option(None, "Training images per update.", panel=RECIPE)
    sets: Sequence[str] = option(
        (), "FIELD=VALUE for any field, such as inner.steps=7; repeatable.", flags=("--set",), panel=RECIPE
    )
