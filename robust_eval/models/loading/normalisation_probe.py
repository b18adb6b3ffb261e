"""Input normalisations that a network without BatchNorm may have, by clean accuracy.

Accuracy cannot identify the normalisation: a wrong one that stretches the input more may even be more
accurate than the right one. It only rules out those that are far less accurate; if several remain, the result
is flagged until the user names one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Normalisation
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.loading.load_task import Rival
from robust_eval.models.normalisation import NORMALISATIONS, Normalised, equivalent

MEASURED = 512
"""Images on which candidates are compared."""
SHOWN = 64
"""Images on which the accuracy of a normalisation known otherwise is measured."""
_BATCH = 128
PLAUSIBLE = 0.75
"""Share of the best candidate's accuracy above chance. On public networks without BatchNorm the right one has
0.93 to 1 of it."""
_POINT = 0.01
_FEW = 32
# For known datasets, the statistics of the others are not tried.
_ANY = ("none", "2x-1", "0-255", "per-image")
_USUAL = {
    "cifar10": (*_ANY, "cifar10", "cifar10-kuangliu", "imagenet"),
    "cifar100": (*_ANY, "cifar100", "cifar10", "cifar10-kuangliu", "imagenet"),
    "svhn": (*_ANY, "svhn", "cifar10", "imagenet"),
}


def candidate_normalisations(
    channels: int, dataset: str = "", recorded: Normalisation | None = None, classes: int | None = None
) -> list[Normalisation]:
    """Normalisations to try: a recorded one first, then those of the table for the dataset."""
    names = _USUAL.get(dataset, tuple(NORMALISATIONS))
    known = [NORMALISATIONS[name] for name in names if len(NORMALISATIONS[name].mean) in (1, channels)]
    known = [entry for entry in known if channels == 1 or entry.name != "mnist"]
    # Almost the statistics of CIFAR-10.
    known = [entry for entry in known if classes != 10 or entry.name != "cifar100"]
    if recorded is None:
        return known
    return [recorded, *(entry for entry in known if not equivalent(entry, recorded))]


def measured(
    network: nn.Module, normalisations: Sequence[Normalisation], x_NCHW: Tensor, y_N: Tensor, n: int = SHOWN
) -> list[Rival]:
    """The clean accuracy with each normalisation, on the first ``n`` images (on the network's device).

    ``network``: normalised input to logits, in eval mode.
    """
    copy = make_attack_copy(network, batch=_BATCH)
    return [
        Rival(
            entry,
            _correct(Normalised(copy, entry).to(x_NCHW.device).eval(), x_NCHW[:n], y_N[:n]),
            len(y_N[:n]),
        )
        for entry in normalisations
    ]


@torch.no_grad()
def _correct(model: nn.Module, x: Tensor, y: Tensor) -> int:
    logits = model(x)
    return int(((logits.argmax(1) == y) & logits.isfinite().all(1)).sum())


def probe(
    network: nn.Module,
    normalisations: Sequence[Normalisation],
    x_NCHW: Tensor,
    y_N: Tensor,
    classes: int,
    name: str,
    *,
    recorded: Normalisation | None = None,
) -> tuple[Normalisation, tuple[Rival, ...], str]:
    """(normalisation, plausible ones if there are several, note with all accuracies).

    ``x_NCHW`` in [0, 1] and ``y_N`` are on the device of the network; up to 512 images are used.

    Raises :class:`UserError` if accuracy is near chance.
    """
    tried = measured(network, normalisations, x_NCHW, y_N, MEASURED)
    best = max(rival.accuracy for rival in tried)
    chosen = tried[0] if recorded is not None else _most_natural(tried, best)
    table = ", ".join(map(str, [chosen, *sorted(_others(tried, chosen), key=lambda one: -one.accuracy)]))
    if best < _floor(len(x_NCHW), classes):
        raise UserError(_near_chance(name, table, classes))
    refuse_chance(chosen, len(x_NCHW), classes, name, table)
    if recorded is not None:
        return chosen.normalisation, (), f"input normalisation as recorded; clean accuracy: {table}"
    chance = 1 / classes
    likely = [one for one in tried if one.accuracy - chance >= PLAUSIBLE * (best - chance)]
    rivals = (chosen, *_others(likely, chosen)) if len(likely) > 1 else ()
    why = "as one of several that accuracy does not rule out" if rivals else "by clean accuracy"
    note = f"input normalisation '{chosen.normalisation.name}' {why}; clean accuracy: {table}"
    return chosen.normalisation, rivals, note


def _others(rivals: Sequence[Rival], chosen: Rival) -> list[Rival]:
    return [rival for rival in rivals if rival is not chosen]


def _most_natural(tried: Sequence[Rival], best: float) -> Rival:
    """``none`` if it is within a point of the best, else the most accurate."""
    none = [one for one in tried if one.normalisation.name == "none" and best - one.accuracy <= _POINT]
    return none[0] if none else max(tried, key=lambda one: one.accuracy)


def _floor(images: int, classes: int) -> float:
    """With few images a weak model cannot be distinguished from chance."""
    return near_chance(classes) if images >= _FEW else 1 / classes


def refuse_chance(chosen: Rival, images: int, classes: int, name: str, table: str = "") -> None:
    """Raise :class:`UserError` if the accuracy with the chosen normalisation is near chance."""
    if chosen.accuracy < _floor(images, classes):
        if chosen.normalisation.name == "recorded":
            raise UserError(
                f"{name} records an input normalisation under which it is near chance ({table or chosen}). "
                "Choose another one with --normalisation."
            )
        raise UserError(_near_chance(name, table or str(chosen), classes))


def _near_chance(name: str, table: str, classes: int) -> str:
    return (
        f"{name} is near chance on these images ({table}; chance is {100 / classes:.0f}%). Check that --data "
        "is the dataset it was trained on, with labels in the same order, or choose a normalisation with "
        "--normalisation."
    )


def near_chance(classes: int) -> float:
    """Accuracy below which a model counts as near chance: twice chance, at most chance plus 15 points."""
    return min(2 / classes, 1 / classes + 0.15)
