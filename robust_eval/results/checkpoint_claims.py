"""Claims of a checkpoint about itself, unverified: how its epoch was selected, and its clean accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robust_eval.core.checkpoint_names import with_recipe
from robust_eval.results.schema import CheckpointRecord

Selected = Literal["validation", "test", "last", "unknown"]

# Written by the code of Rice et al. 2020 and of the AWP paper when an epoch is the best on the test set.
_BEST_ON_TEST = ("test_robust_acc", "best_test_robust_acc", "best_test_acc")
_CLEAN = ("test_acc", "test_accuracy", "clean_acc", "clean_accuracy", "natural_acc", "nat_acc")


@dataclass(frozen=True)
class Claim:
    """A clean accuracy recorded in a checkpoint."""

    accuracy: float
    """Fraction in [0, 1]."""
    n: int | None
    """Number of images it was measured on; None if not recorded."""
    on_test_set: bool
    """Measured on the test set; otherwise on images held out from the training set."""


def distinct_name(checkpoint: CheckpointRecord) -> str:
    """``best.pt (at-awp)``: the file's name, with the recipe if many runs write a file of this name."""
    recipe = _mapping(checkpoint.trained_with, "recipe").get("name")
    return with_recipe(checkpoint.name, str(recipe or ""))


def selected(trained_with: Mapping[str, Any] | None, name: str = "") -> Selected:
    """How the checkpoint was selected among the epochs of its training, according to its own record.

    ``validation`` (best on held-out training images), ``test`` (best on the test set, an optimistic
    figure), ``last``, or ``unknown``. ``name``: file name; training writes ``last.pt`` and ``best.pt``.
    """
    recorded = _mapping(trained_with, "provenance").get("selected")
    if recorded in ("validation", "test", "last"):
        choice: Selected = recorded
        return choice
    if any(key in _mapping(trained_with, "file_says") for key in _BEST_ON_TEST):
        return "test"
    held_out = _mapping(_mapping(trained_with, "recipe"), "selection").get("validation")
    if not isinstance(held_out, int) or name not in ("best.pt", "last.pt"):
        return "unknown"
    return "validation" if name == "best.pt" and held_out else "last"


def clean_claim(trained_with: Mapping[str, Any] | None) -> Claim | None:
    """The clean accuracy recorded in the checkpoint, preferably on the test set; None if there is none."""
    metrics = _mapping(trained_with, "metrics")
    selection = _mapping(_mapping(trained_with, "recipe"), "selection")
    for key, images, on_test in (("test_clean", "test_images", True), ("val_clean", "validation", False)):
        accuracy = _fraction(metrics.get(key))
        if accuracy is not None:
            n = selection.get(images)
            return Claim(accuracy, n if isinstance(n, int) and n > 0 else None, on_test)
    fields = _mapping(trained_with, "file_says")
    candidates = (_fraction(fields.get(key)) for key in _CLEAN)
    accuracy = next((value for value in candidates if value is not None), None)
    return None if accuracy is None else Claim(accuracy, None, True)


def _mapping(value: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    part = (value or {}).get(key)
    return part if isinstance(part, Mapping) else {}


def _fraction(value: object) -> float | None:
    """An accuracy as a fraction; checkpoints of other projects often store percentages."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        return None
    return float(value) if value <= 1 else value / 100
