"""Which input normalisation a foreign checkpoint wants, told by its clean accuracy.

The wrong one still "works" and gives a plausible, lower number, so every candidate is tried and the
figures are reported. A normalisation that the file records is kept unless it is near chance. Else
accuracy decides. Candidates that it cannot tell apart (within a point, or not significantly worse on
the same images) are separated by what the first BatchNorm layer remembers of its training inputs,
with or without the usual zero-padded crops; without BatchNorm "none" is preferred, then the most
accurate.
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

# Images looked at in each round; candidates that fall clearly behind leave after each. The winner
# sees at least the second round's.
ROUNDS = (32, 128, 500)
_BATCH = 128
_POINT = 0.01
# A network that is right this often is not one that is run the wrong way.
_GOOD_ENOUGH = 0.6
# Where the dataset is known, the others' statistics need not be tried.
_USUAL = {
    "cifar10": ("none", "2x-1", "cifar10", "cifar10-kuangliu", "imagenet"),
    "cifar100": ("none", "2x-1", "cifar100", "cifar10", "cifar10-kuangliu", "imagenet"),
    "svhn": ("none", "2x-1", "svhn", "cifar10", "imagenet"),
}


@dataclass(frozen=True)
class Candidate:
    """One way to run a network. ``network`` is in eval mode, from normalised input to logits."""

    network: nn.Module
    architecture: Architecture
    label: str
    normalisation: Normalisation
    recorded: bool = False
    """In the file: kept while it is not clearly wrong."""
    variant: bool = False
    """Tried only where no plain candidate does well."""


class _Trial:
    """A candidate and how it does on the images seen so far."""

    def __init__(self, candidate: Candidate, copy: nn.Module, device: torch.device) -> None:
        self.candidate = candidate
        self.model = Normalised(copy, candidate.normalisation).to(device).eval()
        self.correct = torch.empty(0, dtype=torch.bool)

    @torch.no_grad()
    def look(self, x: Tensor, y: Tensor) -> None:
        """Go on to those of the images that were not seen before."""
        seen = len(self.correct)
        if seen < len(x):
            logits = self.model(x[seen:])
            right = (logits.argmax(1) == y[seen:]) & logits.isfinite().all(1)
            self.correct = torch.cat([self.correct, right.cpu()])

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())

    def behind(self, best: _Trial) -> bool:
        """Clearly worse on the same images: by more than a point, and by three standard errors."""
        lost = int((best.correct & ~self.correct).sum())
        won = int((self.correct & ~best.correct).sum())
        return lost - won > _POINT * len(self.correct) and lost - won > 3 * sqrt(lost + won)

    def __str__(self) -> str:
        return f"{self.candidate.label} {100 * self.accuracy:.1f}% of {len(self.correct)}"


def candidate_normalisations(
    channels: int, dataset: str = "", recorded: Normalisation | None = None
) -> list[Normalisation]:
    """What to try: a recorded one first, then the table's that suit the dataset and its channels."""
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
    asked: bool = False,
) -> tuple[Candidate, str]:
    """The best candidate, and a sentence with everybody's figures.

    ``x_NCHW`` in [0, 1] and ``y_N`` on the networks' device; up to 500 are used. A UserError with the
    figures where even the best is near chance, unless the user ``asked`` for this normalisation.
    """
    tried, left = _compete(candidates, x_NCHW, y_N)
    recorded = [trial for trial in tried if trial.candidate.recorded and not trial.candidate.variant]
    chosen, why = (recorded[0], "as recorded") if recorded else _settle(left, x_NCHW[: ROUNDS[1]])
    rest = sorted((trial for trial in tried if trial is not chosen), key=lambda trial: -trial.accuracy)
    table = ", ".join(str(trial) for trial in (chosen, *rest))
    # A handful of images cannot tell a weak model from chance.
    floor = near_chance(classes) if len(x_NCHW) >= ROUNDS[0] else 1 / classes
    floor = 0.0 if asked else floor
    if max(trial.accuracy for trial in left) < floor:
        raise UserError(
            f"{name} is near chance on these images whatever its input normalisation ({table}; chance is "
            f"{100 / classes:.0f}%). Check that --data is what it was trained on, with the labels in the "
            "same order, or force one with --normalisation."
        )
    if chosen.accuracy < floor:
        raise UserError(
            f"{name} records an input normalisation under which it is near chance ({table}). "
            "Force another with --normalisation."
        )
    return chosen.candidate, (
        f"input normalisation '{chosen.candidate.normalisation.name}' {why}; clean accuracy: {table}"
    )


def near_chance(classes: int) -> float:
    """Twice chance, or chance plus 15 points where there are few classes."""
    return min(2 / classes, 1 / classes + 0.15)


def _compete(candidates: Sequence[Candidate], x: Tensor, y: Tensor) -> tuple[list[_Trial], list[_Trial]]:
    """All that were tried, and those that are not clearly behind."""
    copies = {id(entry.network): make_attack_copy(entry.network, batch=_BATCH) for entry in candidates}

    def start(variant: bool) -> list[_Trial]:
        chosen = [entry for entry in candidates if entry.variant == variant]
        return [_Trial(entry, copies[id(entry.network)], x.device) for entry in chosen]

    trials = start(variant=False)
    left = list(trials)
    for limit in ROUNDS:
        for trial in left:
            trial.look(x[:limit], y[:limit])
        if limit == ROUNDS[0] and max(trial.accuracy for trial in left) < _GOOD_ENOUGH:
            variants = start(variant=True)
            for trial in variants:
                trial.look(x[:limit], y[:limit])
            trials += variants
            left += variants
        best = max(left, key=lambda trial: trial.accuracy)
        left = [trial for trial in left if trial.candidate.recorded or not trial.behind(best)]
        if limit >= len(x) or (len(left) == 1 and limit >= ROUNDS[1]):
            break
    return trials, left


def _settle(contenders: Sequence[_Trial], x: Tensor) -> tuple[_Trial, str]:
    """One of those that accuracy could not separate, and why."""
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
        # What comes after the first BatchNorm leaves it as it is: of those, the most accurate.
        least = min(mismatches) + 1e-9
        alike = [trial for trial, value in zip(contenders, mismatches, strict=True) if value <= least]
        chosen = max(alike, key=lambda trial: trial.accuracy)
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
    """Zero-padded by an eighth of the width and cropped, as in training; every offset in turn.

    Black borders change the statistics that training leaves behind by as much as one table entry
    differs from the next.
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
    """Mean over channels of KL(batch statistics || remembered ones) at the first BatchNorm that runs.

    In all our networks its input is linear in the image, so it sees the input's scale directly. None
    without BatchNorm.
    """
    found: list[float] = []

    def look(layer: nn.Module, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        if found or not isinstance(layer, nn.BatchNorm2d):
            return
        if layer.running_var is None or layer.running_mean is None:
            return
        variance, mean = torch.var_mean(inputs[0].double().transpose(0, 1).flatten(1), 1)
        remembered = layer.running_var.double() + layer.eps
        ratio = (variance + layer.eps) / remembered
        shift = (mean - layer.running_mean) ** 2 / remembered
        found.append(float((0.5 * (ratio + shift - 1 - ratio.log())).mean()))

    hooks = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        if hooks:
            with torch.no_grad():
                model(x_NCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None
