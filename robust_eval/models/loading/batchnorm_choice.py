"""Choose input normalisation and variant of a network by what its BatchNorm layers remember.

The first layer sees the normalised image through a convolution, so it depends on the normalisation and on
nothing else; later layers, whose input the layers before them standardise, do not depend on it. Thresholds
are calibrated on adversarially and naturally trained checkpoints (``docs/flags.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor, nn

from robust_eval.core.types import Normalisation
from robust_eval.models.acceleration.tuning import flops
from robust_eval.models.architectures import BATCHNORM_EPS, Arguments
from robust_eval.models.loading.batchnorm_statistics import (
    LayerStatistics,
    VariantComparison,
    compare,
    measure,
    measure_first,
)
from robust_eval.models.loading.training_views import BORDERS, VIEWS
from robust_eval.models.normalisation import Normalised

LEAST = 8
"""With fewer images nothing is concluded from statistics."""
MOST_IMAGES = 512
"""Images that the first layer is measured on."""
ALL_LAYERS = (64, 512)
"""Images that all layers are measured on: as many as OPERATIONS allow, within these limits."""
OPERATIONS = 1e11
"""Floating-point operations of a pass over the images: a second or two of one CPU core."""
_SCREENED = 32
"""Images on which normalisations that are far off are ruled out first."""
_STEP = 4
"""A variant is compared on this part of the images first, and 16 at least."""
_FAR = 10.0
_CLOSE = 1.5
"""Normalisations are plausible up to this multiple of the smallest mismatch, and the sampling error."""
_SAMPLING = 0.3
"""Mismatch of n images of the training data is at most this / n (calibrated)."""
_TOLERANCE = 0.02
_SWITCH = 0.7
"""A variant is chosen if the remembered statistics lie this far towards it."""
_DOUBT, _DOUBT_DISTANCE = 0.15, 0.3
"""From this share on, and this product of share and distance, the truth may lie between two variants."""
_NEAR = _DOUBT / 2
"""From this share on, measured on few images, a variant is compared on all."""
_ROUNDS = 4
EPS_VARIANT: Arguments = {BATCHNORM_EPS: 1e-3}
"""The eps of networks ported from TensorFlow; tried for every architecture."""


def tolerance(images: int) -> float:
    """Largest mismatch of a layer that is attributed to training and to the choice of images."""
    return _TOLERANCE + _SAMPLING / images


@dataclass(frozen=True)
class FirstLayer:
    """Mismatch of the first BatchNorm layer with one normalisation, for the view that fits best."""

    normalisation: Normalisation
    view: str
    mismatch: float

    def __str__(self) -> str:
        return f"{self.normalisation.name} {self.mismatch:.4f}"


def first_layers(
    network: nn.Module, normalisations: Iterable[Normalisation], x_NCHW: Tensor
) -> list[FirstLayer]:
    """The normalisations, the best first; none if no BatchNorm layer is reached.

    ``network``: normalised input to logits, in eval mode.
    """

    def ranked(n: int, candidates: Iterable[tuple[Normalisation, str]]) -> list[FirstLayer]:
        shown, found = {name: view(x_NCHW[:n]) for name, view in BORDERS.items()}, []
        for normalisation, view in candidates:
            model = Normalised(network, normalisation).to(x_NCHW.device).eval()
            layer = measure_first(model, shown[view])
            if layer is not None:
                found.append(FirstLayer(normalisation, view, layer.mismatch))
        return sorted(found, key=lambda one: one.mismatch)

    few = ranked(_SCREENED, product(normalisations, BORDERS))
    limit = _FAR * few[0].mismatch + tolerance(len(x_NCHW)) if few else 0.0
    close = [(one.normalisation, one.view) for one in few if one.mismatch <= limit]
    found = ranked(MOST_IMAGES, close) + [one for one in few if one.mismatch > limit]
    return [one for index, one in enumerate(found) if one.normalisation not in _of(found[:index])]


def _of(found: Iterable[FirstLayer]) -> list[Normalisation]:
    return [one.normalisation for one in found]


def plausible(ranked: Sequence[FirstLayer], images: int) -> list[FirstLayer]:
    """Those that the statistics do not rule out, the best first."""
    limit = _CLOSE * ranked[0].mismatch + _SAMPLING / min(images, MOST_IMAGES)
    return [one for one in ranked if one.mismatch <= limit]


Build = Callable[[Arguments], nn.Module]
"""From arguments of the architecture to the network with its weights, in eval mode on the device."""


@dataclass(frozen=True)
class Variant:
    """The chosen variant, with the statistics of all its BatchNorm layers."""

    arguments: Arguments
    network: nn.Module
    layers: Sequence[LayerStatistics]
    images: int
    doubted: Sequence[str] = ()
    """Variants between which and the chosen one the remembered statistics lie."""
    untold: Sequence[str] = ()
    """Variants too similar to be told apart with these images; a note and no flag, because a wrong one
    changes few predictions (measured in ``docs/flags.md``)."""

    @property
    def fits(self) -> bool:
        """Whether this network, and no other, has the remembered statistics."""
        return not self.doubted and self.worst.mismatch <= tolerance(self.images)

    @property
    def worst(self) -> LayerStatistics:
        """The layer with the largest mismatch."""
        return max(self.layers, key=lambda layer: layer.mismatch)


def choose_variant(
    build: Build,
    default: Arguments,
    variants: Sequence[Arguments],
    first: FirstLayer,
    x_NCHW: Tensor,
) -> Variant:
    """The default, unless a variant fits the remembered statistics better; variants are combined.

    ``first``: the normalisation, and the view of the images.
    """

    def model(network: nn.Module) -> nn.Module:
        return Normalised(network, first.normalisation).to(x_NCHW.device).eval()

    arguments, network = default, build(default)
    x = VIEWS[first.view](x_NCHW[: image_count(model(network), x_NCHW)])
    few = x[: max(16, len(x) // _STEP)]
    layers = measure(model(network), x)
    for _ in range(_ROUNDS):
        on_few = measure(model(network), few)
        compared = []
        for changed in _neighbours(arguments, default, variants):
            other = model(build(changed))
            one = compare(layers, other, few, on_few)
            if not one.rejected and one.share >= _NEAR:
                one = compare(layers, other, x)
            if one.channels and not one.rejected:
                compared.append((changed, one))
        told = [(changed, one) for changed, one in compared if _distance(one) >= _least_distance(len(x))]
        better = [(changed, one) for changed, one in told if one.share >= _SWITCH]
        if not better:
            break
        arguments = max(better, key=lambda pair: pair[1].gain)[0]
        network = build(arguments)
        layers = measure(model(network), x)
    return Variant(
        arguments,
        network,
        layers,
        len(x),
        [label(changed, arguments) for changed, one in told if _is_doubtful(one)],
        [label(changed, arguments) for changed, one in compared if (changed, one) not in told],
    )


def explains(network: nn.Module, first: FirstLayer, x_NCHW: Tensor) -> bool:
    """Whether no layer deviates by more than :func:`tolerance` with these images; a single pass."""
    model = Normalised(network, first.normalisation).to(x_NCHW.device).eval()
    x = VIEWS[first.view](x_NCHW[: image_count(model, x_NCHW)])
    return all(layer.mismatch <= tolerance(len(x)) for layer in measure(model, x))


def image_count(model: nn.Module, x_NCHW: Tensor) -> int:
    """How many images one pass over all layers takes."""
    affordable = int(OPERATIONS / max(flops(model, x_NCHW), 1))
    fewest, most = ALL_LAYERS
    return min(len(x_NCHW), max(fewest, min(most, affordable)))


def _neighbours(
    arguments: Arguments, default: Arguments, variants: Sequence[Arguments]
) -> list[dict[str, Any]]:
    """The arguments with one variant applied, or one taken back."""
    changed = [{**arguments, **variant} for variant in variants]
    for name in arguments:
        kept = {key: value for key, value in arguments.items() if key != name}
        changed.append(kept | ({name: default[name]} if name in default else {}))
    return [one for one in changed if one != arguments]


def label(changed: Arguments, arguments: Arguments) -> str:
    """The arguments that differ, as in ``--arch ID?NAME=VALUE``."""
    names = [name for name in {**changed, **arguments} if changed.get(name) != arguments.get(name)]
    return "&".join(f"{name}={changed.get(name, 'default')}" for name in names)


def _distance(one: VariantComparison) -> float:
    """How far two variants are apart, relative to how much the first deviates."""
    return one.distance / one.before if one.before else float("inf")


def _least_distance(images: int) -> float:
    """Smallest distance of variants that n images tell apart: more images deviate less by chance."""
    return max(0.1, min(0.4, 30 / images))


def _is_doubtful(one: VariantComparison) -> bool:
    return _DOUBT <= one.share < _SWITCH and one.share * _distance(one) >= _DOUBT_DISTANCE
