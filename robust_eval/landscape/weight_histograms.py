"""How the weights of checkpoints are distributed, layer by layer (Wu, Xia, Wang 2020, Figure 4).

The paper compares the last convolution of AT and AT-AWP: AWP's weights are smaller and more symmetric, while
early layers are alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import figure_style
from robust_eval.core.errors import UserError, unknown
from robust_eval.landscape.checkpoints import labelled, same_architecture
from robust_eval.landscape.directions import movable
from robust_eval.models.loading import checkpoint

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust_eval.models.loading.checkpoint import LoadedModel

MOST_BINS = 61
# The share of the weights that the bins must hold: a few outliers would squeeze all others into one.
SHOWN = 0.995


@dataclass(frozen=True)
class Statistics:
    """Of the weights of one layer."""

    n: int
    mean: float
    std: float
    mean_abs: float
    skewness: float
    """Third standardised moment; 0 for symmetric weights."""
    norm: float
    largest: float
    """Largest absolute value."""


@dataclass(frozen=True)
class Layer:
    name: str
    shape: tuple[int, ...]
    edges: NDArray[np.float64]
    """Common bins, (bins + 1,), symmetric around 0."""
    density: Mapping[str, NDArray[np.float64]]
    """By label, (bins,); integrates to the share of the weights within the bins."""
    statistics: Mapping[str, Statistics]


def statistics(values: NDArray[np.float64]) -> Statistics:
    """Moments of ``values`` (any shape), in float64."""
    flat = values.ravel()
    mean, std = float(flat.mean()), float(flat.std())
    third = float(((flat - mean) ** 3).mean())
    return Statistics(
        n=flat.size,
        mean=mean,
        std=std,
        mean_abs=float(np.abs(flat).mean()),
        skewness=third / std**3 if std else 0.0,
        norm=float(np.linalg.norm(flat)),
        largest=float(np.abs(flat).max()),
    )


def load(
    sources: Sequence[str], names: str | None, arch: str | None
) -> tuple[tuple[str, ...], list[LoadedModel]]:
    """Labels and checkpoints. Weights can be looked at without knowing how the input is normalised."""
    labels = labelled(sources, names)
    loaded = [
        checkpoint.load(
            source,
            images=None,
            arch=arch,
            normalisation=None if source.startswith("robustbench:") else "none",
        )
        for source in sources
    ]
    same_architecture(labels, loaded)
    return labels, loaded


def layers(labels: Sequence[str], loaded: Sequence[LoadedModel]) -> list[Layer]:
    """Every weight of more than one dimension, in the network's order."""
    tensors = [
        {name: weight.cpu().double().numpy() for name, weight in movable(model.network).items()}
        for model in loaded
    ]
    for label, found in zip(labels, tensors, strict=True):
        if not found:
            raise UserError(f"{label} has no weight with more than one dimension to look at.")
        bad = next((name for name, values in found.items() if not np.isfinite(values).all()), None)
        if bad:
            raise UserError(f"{label} has weights that are not finite, in {bad}. Training broke down there.")
    return [_layer(name, dict(zip(labels, tensors, strict=True))) for name in tensors[0]]


def _layer(name: str, tensors: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> Layer:
    values = {label: found[name] for label, found in tensors.items()}
    reach = max(float(np.quantile(np.abs(value), SHOWN)) for value in values.values()) or 1.0
    # An odd number, so that 0 is the middle of a bin; fewer where there are few weights to count.
    bins = int(np.clip(np.sqrt(next(iter(values.values())).size), 9, MOST_BINS)) // 2 * 2 + 1
    edges = np.linspace(-reach, reach, bins + 1)
    density = {
        label: np.histogram(value, edges)[0] / (value.size * np.diff(edges))
        for label, value in values.items()
    }
    shape = next(iter(values.values())).shape
    return Layer(name, shape, edges, density, {label: statistics(value) for label, value in values.items()})


def chosen(found: Sequence[Layer], names: str | None) -> list[Layer]:
    """Layers by name; without names the first, the middle and the last convolution (else matrix)."""
    if names is not None:
        known = {layer.name: layer for layer in found}
        for name in names.split(","):
            if name not in known:
                raise unknown("layer", name, known)
        return [known[name] for name in dict.fromkeys(names.split(","))]
    convolutions = [layer for layer in found if len(layer.shape) == 4] or list(found)
    places = dict.fromkeys((0, (len(convolutions) - 1) // 2, len(convolutions) - 1))
    return [convolutions[place] for place in places]


def to_data(labels: Sequence[str], loaded: Sequence[LoadedModel], found: Sequence[Layer]) -> dict[str, Any]:
    """Every layer, drawn or not."""
    return {
        "kind": "weight-histograms",
        "version": 1,
        "checkpoints": [
            {"label": label, "name": model.ref.name, "sha256": model.ref.sha256}
            for label, model in zip(labels, loaded, strict=True)
        ],
        "architecture": asdict(loaded[0].ref.architecture),
        "layers": [
            {
                "name": layer.name,
                "shape": layer.shape,
                "statistics": {label: asdict(entry) for label, entry in layer.statistics.items()},
                "bin_edges": layer.edges,
                "density": layer.density,
            }
            for layer in found
        ],
    }


def draw(shown: Sequence[Layer]) -> Figure:
    """Densities on common bins, a panel for each layer."""
    with figure_style.style():
        width = figure_style.COLUMN if len(shown) == 1 else 2.3 * len(shown)
        canvas, panels = figure_style.panels(len(shown), width=width, height=2.2)
        for axes, layer in zip(panels, shown, strict=True):
            for place, (label, density) in enumerate(layer.density.items()):
                look = figure_style.line(place, markers=False)
                axes.stairs(
                    density, layer.edges, label=label, color=look["color"], linestyle=look["linestyle"]
                )
            axes.set_title(f"{layer.name}\n({'×'.join(map(str, layer.shape))})", fontsize=7)
            axes.set_xlabel("weight")
            axes.locator_params(axis="y", nbins=4)
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("density (per unit of weight)")
        figure_style.legend(canvas, panels[-1])
    return canvas
