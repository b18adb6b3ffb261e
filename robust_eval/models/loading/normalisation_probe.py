"""Determine the input normalisation of a foreign checkpoint by its clean accuracy.

A wrong normalisation gives a plausible but lower accuracy, so all candidates are tried and their accuracies
reported. A normalisation recorded in the file is used unless its accuracy is near chance. Otherwise
accuracy decides. Candidates with similar accuracy (within a point, or not significantly worse on the same
images) are compared by the running statistics of the first BatchNorm layer, with and without zero-padded
crops; without BatchNorm "none" is preferred, then the most accurate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_eval.core.errors import UserError
from robust_eval.core.types import Architecture, Normalisation
from robust_eval.models.acceleration.frozen_copy import make_attack_copy
from robust_eval.models.normalisation import NORMALISATIONS, Normalised

# Images in each round; clearly worse candidates are dropped after each round. At least two rounds are run.
ROUNDS = (32, 128, 500)
_BATCH = 128
_POINT = 0.01
# With at least this accuracy, no other variants of the architecture are tried.
_GOOD_ENOUGH = 0.6
# For known datasets, the statistics of the others are not tried.
_USUAL = {
    "cifar10": ("none", "2x-1", "cifar10", "cifar10-kuangliu", "imagenet"),
    "cifar100": ("none", "2x-1", "cifar100", "cifar10", "cifar10-kuangliu", "imagenet"),
    "svhn": ("none", "2x-1", "svhn", "cifar10", "imagenet"),
}


@dataclass(frozen=True)
class Candidate:
    """A network with a normalisation. ``network``, in eval mode, maps normalised input to logits."""

    network: nn.Module
    architecture: Architecture
    label: str
    normalisation: Normalisation
    recorded: bool = False
    """The normalisation is recorded in the file: used unless the accuracy is near chance."""
    variant: bool = False
    """Only tried if no candidate of the default variant has a good accuracy."""


class _Trial:
    """A candidate with its predictions on the images of the rounds so far."""

    def __init__(self, candidate: Candidate, copy: nn.Module, device: torch.device) -> None:
        self.candidate = candidate
        self.model = Normalised(copy, candidate.normalisation).to(device).eval()
        self.correct = torch.empty(0, dtype=torch.bool)

    @torch.no_grad()
    def extend(self, x: Tensor, y: Tensor) -> None:
        """Evaluate the images that were not evaluated before."""
        done = len(self.correct)
        if done < len(x):
            logits = self.model(x[done:])
            correct = (logits.argmax(1) == y[done:]) & logits.isfinite().all(1)
            self.correct = torch.cat([self.correct, correct.cpu()])

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())

    def behind(self, best: _Trial) -> bool:
        """Whether it is worse on the same images by more than a point and three standard errors."""
        lost = int((best.correct & ~self.correct).sum())
        won = int((self.correct & ~best.correct).sum())
        return lost - won > _POINT * len(self.correct) and lost - won > 3 * sqrt(lost + won)

    def __str__(self) -> str:
        return f"{self.candidate.label} {100 * self.accuracy:.1f}% of {len(self.correct)}"


def candidate_normalisations(
    channels: int, dataset: str = "", recorded: Normalisation | None = None
) -> list[Normalisation]:
    """Normalisations to try: a recorded one first, then those of the table for the dataset."""
    names = _USUAL.get(dataset, tuple(NORMALISATIONS))
    known = [NORMALISATIONS[name] for name in names if len(NORMALISATIONS[name].mean) in (1, channels)]
    known = [entry for entry in known if channels == 1 or entry.name != "mnist"]
    if recorded is None:
        return known
    return [recorded, *(entry for entry in known if not _same(entry, recorded))]


def _same(one: Normalisation, other: Normalisation) -> bool:
    def close(a: Sequence[float], b: Sequence[float]) -> bool:
        longer = max(len(a), len(b))
        wide = (list(values) * (longer // len(values)) for values in (a, b))
        return all(abs(p - q) < 1e-3 for p, q in zip(*wide, strict=True))

    return close(one.mean, other.mean) and close(one.std, other.std)


def probe(
    candidates: Sequence[Candidate],
    x_NCHW: Tensor,
    y_N: Tensor,
    classes: int,
    name: str,
    *,
    requested: bool = False,
) -> tuple[Candidate, str]:
    """(candidate, note): the best candidate, and a note with the accuracies of all.

    ``x_NCHW`` in [0, 1] and ``y_N`` are on the device of the networks; up to 500 images are used.

    Raises :class:`UserError` if accuracy is near chance, unless the user ``requested`` this normalisation.
    """
    tried, remaining = _compete(candidates, x_NCHW, y_N)
    recorded = [trial for trial in tried if trial.candidate.recorded and not trial.candidate.variant]
    chosen, why = (recorded[0], "as recorded") if recorded else _break_tie(remaining, x_NCHW[: ROUNDS[1]])
    rest = sorted((trial for trial in tried if trial is not chosen), key=lambda trial: -trial.accuracy)
    table = ", ".join(str(trial) for trial in (chosen, *rest))
    # With few images a weak model cannot be distinguished from chance.
    floor = near_chance(classes) if len(x_NCHW) >= ROUNDS[0] else 1 / classes
    floor = 0.0 if requested else floor
    if max(trial.accuracy for trial in remaining) < floor:
        raise UserError(
            f"{name} is near chance on these images with every input normalisation ({table}; chance is "
            f"{100 / classes:.0f}%). Check that --data is the dataset it was trained on, with labels in "
            "the same order, or choose a normalisation with --normalisation."
        )
    if chosen.accuracy < floor:
        raise UserError(
            f"{name} records an input normalisation under which it is near chance ({table}). "
            "Choose another one with --normalisation."
        )
    return chosen.candidate, (
        f"input normalisation '{chosen.candidate.normalisation.name}' {why}; clean accuracy: {table}"
    )


def near_chance(classes: int) -> float:
    """Accuracy below which a model counts as near chance: twice chance, at most chance plus 15 points."""
    return min(2 / classes, 1 / classes + 0.15)


def _compete(candidates: Sequence[Candidate], x: Tensor, y: Tensor) -> tuple[list[_Trial], list[_Trial]]:
    """(all trials, those that are not clearly worse than the best)."""
    copies = {id(entry.network): make_attack_copy(entry.network, batch=_BATCH) for entry in candidates}

    def start(variant: bool) -> list[_Trial]:
        chosen = [entry for entry in candidates if entry.variant == variant]
        return [_Trial(entry, copies[id(entry.network)], x.device) for entry in chosen]

    trials = start(variant=False)
    remaining = list(trials)
    for limit in ROUNDS:
        for trial in remaining:
            trial.extend(x[:limit], y[:limit])
        if limit == ROUNDS[0] and max(trial.accuracy for trial in remaining) < _GOOD_ENOUGH:
            variants = start(variant=True)
            for trial in variants:
                trial.extend(x[:limit], y[:limit])
            trials += variants
            remaining += variants
        best = max(remaining, key=lambda trial: trial.accuracy)
        remaining = [trial for trial in remaining if trial.candidate.recorded or not trial.behind(best)]
        if limit >= len(x) or (len(remaining) == 1 and limit >= ROUNDS[1]):
            break
    return trials, remaining


def _break_tie(contenders: Sequence[_Trial], x: Tensor) -> tuple[_Trial, str]:
    """(trial, reason): choose between trials of similar accuracy."""
    if len(contenders) == 1:
        return contenders[0], "by clean accuracy"

    def others(chosen: _Trial) -> str:
        return ", ".join(trial.candidate.label for trial in contenders if trial is not chosen)

    views = (x, zero_padded_crops(x))
    mismatches = [
        min(found)
        for trial in contenders
        if (
            found := [value for view in views if (value := batchnorm_mismatch(trial.model, view)) is not None]
        )
    ]
    if len(mismatches) == len(contenders):
        # Variants that differ after the first BatchNorm have equal mismatches: take the most accurate.
        smallest = min(mismatches) + 1e-9
        equal = [trial for trial, value in zip(contenders, mismatches, strict=True) if value <= smallest]
        chosen = max(equal, key=lambda trial: trial.accuracy)
        return chosen, (
            f"by the first BatchNorm's statistics, where accuracy does not rule out {others(chosen)}"
        )
    best = max(trial.accuracy for trial in contenders)
    close = [trial for trial in contenders if best - trial.accuracy <= _POINT]
    none = [trial for trial in close if trial.candidate.normalisation.name == "none"]
    chosen = none[0] if none else max(close, key=lambda trial: trial.accuracy)
    why = "as the most natural" if none else "as the most accurate"
    return chosen, f"{why}, though accuracy does not rule out {others(chosen)}"


def zero_padded_crops(x_NCHW: Tensor) -> Tensor:
    """The images padded with zeros by an eighth of the width and cropped, as in training; all offsets occur.

    Black borders change the running statistics by as much as similar normalisations differ.
    """
    height, width = x_NCHW.shape[2:]
    pad = width // 8
    offsets = 2 * pad + 1
    padded = F.pad(x_NCHW, (pad, pad, pad, pad))
    crops = []
    for index, image in enumerate(padded):
        top, left = index // offsets % offsets, index % offsets
        crops.append(image[:, top : top + height, left : left + width])
    return torch.stack(crops)


def batchnorm_mismatch(model: nn.Module, x_NCHW: Tensor) -> float | None:
    """Mean over channels of KL(batch statistics || running statistics) at the first BatchNorm layer.

    In all networks of this project the input of that layer is linear in the image, so it depends directly
    on the normalisation. None without BatchNorm.
    """
    found: list[float] = []

    def measure(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if found or not isinstance(layer, nn.BatchNorm2d):
            return
        if layer.running_var is None or layer.running_mean is None:
            return
        variance, mean = torch.var_mean(inputs[0].double().transpose(0, 1).flatten(1), 1)
        running = layer.running_var.double() + layer.eps
        ratio = (variance + layer.eps) / running
        shift = (mean - layer.running_mean) ** 2 / running
        found.append(float((0.5 * (ratio + shift - 1 - ratio.log())).mean()))

    hooks = [m.register_forward_hook(measure) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        if hooks:
            with torch.no_grad():
                model(x_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
