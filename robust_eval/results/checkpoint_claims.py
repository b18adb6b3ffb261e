"""What a checkpoint says of itself: how it was chosen, and how accurate it is. Pure; nothing is believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Selected = Literal["validation", "test", "last", "unknown"]

# Rice et al. 2020 and the code of the AWP paper write this when an epoch is the best on the test set.
_BEST_ON_TEST = ("test_robust_acc", "best_test_robust_acc", "best_test_acc")
_CLEAN = ("test_acc", "test_accuracy", "clean_acc", "clean_accuracy", "natural_acc", "nat_acc")


@dataclass(frozen=True)
class Claim:
    """A clean accuracy that a checkpoint records."""

    accuracy: float
    """A fraction."""
    n: int | None
    """Images it was measured on; None where the record does not say."""
    same: bool
    """On the test set; else on images held out from the training set."""


def selected(trained_with: Mapping[str, Any] | None, name: str = "") -> Selected:
    """How the checkpoint was chosen among its training's epochs, by its own record.

    ``validation`` (best on held-out training images), ``test`` (best on the test set, an optimistic
    figure), ``last``, or ``unknown``. ``name``: its file; training leaves ``last.pt`` and ``best.pt``.
    """
    said = _part(trained_with, "provenance").get("selected")
    if said in ("validation", "test", "last"):
        choice: Selected = said
        return choice
    if any(key in _part(trained_with, "file_says") for key in _BEST_ON_TEST):
        return "test"
    held_out = _part(_part(trained_with, "recipe"), "selection").get("validation")
    if not isinstance(held_out, int) or name not in ("best.pt", "last.pt"):
        return "unknown"
    return "validation" if name == "best.pt" and held_out else "last"


def clean_claim(trained_with: Mapping[str, Any] | None) -> Claim | None:
    """The clean accuracy that the checkpoint records; the test set's before any other."""
    metrics = _part(trained_with, "metrics")
    selection = _part(_part(trained_with, "recipe"), "selection")
    for key, images, same in (("test_clean", "test_images", True), ("val_clean", "validation", False)):
        accuracy = _fraction(metrics.get(key))
        if accuracy is not None:
            n = selection.get(images)
            return Claim(accuracy, n if isinstance(n, int) and n > 0 else None, same)
    says = _part(trained_with, "file_says")
    found = (_fraction(says.get(key)) for key in _CLEAN)
    accuracy = next((value for value in found if value is not None), None)
    return None if accuracy is None else Claim(accuracy, None, True)


def _part(value: Mapping[str, Any] | None, key: str) -> Mapping[str, Any]:
    part = (value or {}).get(key)
    return part if isinstance(part, Mapping) else {}


def _fraction(value: object) -> float | None:
    """An accuracy as a fraction; percentages are common in other people's files."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        return None
    return float(value) if value <= 1 else value / 100
