"""Histograms of the weights of checkpoints, layer by layer (Wu, Xia and Wang 2020, Figure 4).

The paper compares the last convolution of AT and AT-AWP: with AWP the weights are smaller and more symmetric,
while early layers are similar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust_eval.core import figure_style
from robust_eval.core.errors import UserError, unknown
from robust_eval.landscape.checkpoints import check_same_architecture, checkpoint_labels
from robust_eval.landscape.directions import perturbable_weights
from robust_eval.models.loading import checkpoint, file_head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from robust_eval.models.loading.checkpoint import LoadedModel

KIND, VERSION = "weights", 1
MAX_BINS = 61
# Fraction of the weights that the bins cover: with outliers included, most weights would share one bin.
COVERED = 0.995


@dataclass(frozen=True)
class WeightStatistics:
    """Statistics of the weights of one layer; the field names are those of the JSON."""

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
class LayerHistograms:
    """One layer of all checkpoints: histograms on common bins, and statistics."""

    name: str
    shape: tuple[int, ...]
    edges: NDArray[np.float64]
    """Edges of the common bins, shape (bins + 1,), symmetric around 0."""
    density: Mapping[str, NDArray[np.float64]]
    """By label, shape (bins,); integrates to the fraction of the checkpoint's weights within the bins."""
    statistics: Mapping[str, WeightStatistics]
    """The statistics of each checkpoint, by label."""


def weight_statistics(values: NDArray[np.float64]) -> WeightStatistics:
    """Statistics of ``values`` (any shape), in float64."""
    flat = values.ravel()
    mean, std = float(flat.mean()), float(flat.std())
    third = float(((flat - mean) ** 3).mean())
    return WeightStatistics(
        n=flat.size,
        mean=mean,
        std=std,
        mean_abs=float(np.abs(flat).mean()),
        skewness=third / std**3 if std else 0.0,
        norm=float(np.linalg.norm(flat)),
        largest=float(np.abs(flat).max()),
    )


def load_models(
    sources: Sequence[str], names: str | None, arch: str | None
) -> tuple[tuple[str, ...], list[LoadedModel]]:
    """Labels and checkpoints; raises :class:`UserError` if their architectures differ.

    The input normalisation is not detected: weights do not depend on it.
    """
    labels = checkpoint_labels(sources, names)
    loaded = [
        checkpoint.load(
            source,
            images=None,
            arch=arch,
            normalisation="none" if file_head.is_file(source) else None,
        )
        for source in sources
    ]
    check_same_architecture(labels, loaded)
    return labels, loaded


def identity(loaded: Sequence[LoadedModel]) -> dict[str, Any]:
    """What the histograms depend on; a run folder belongs to one identity."""
    return {"kind": KIND, "version": VERSION, "checkpoints": [model.ref.identity() for model in loaded]}


def layer_histograms(labels: Sequence[str], loaded: Sequence[LoadedModel]) -> list[LayerHistograms]:
    """Histograms of every weight of more than one dimension, in the network's order.

    Raises :class:`UserError` for a network without such weights, or with weights that are not finite.
    """
    tensors = [
        {name: weight.cpu().double().numpy() for name, weight in perturbable_weights(model.network).items()}
        for model in loaded
    ]
    for label, weights in zip(labels, tensors, strict=True):
        if not weights:
            raise UserError(f"{label} has no weight with more than one dimension, so nothing can be drawn.")
        bad = next((name for name, values in weights.items() if not np.isfinite(values).all()), None)
        if bad:
            raise UserError(f"{label} has weights that are not finite, in {bad}. Its training diverged.")
    return [_layer(name, dict(zip(labels, tensors, strict=True))) for name in tensors[0]]


def _layer(name: str, tensors: Mapping[str, Mapping[str, NDArray[np.float64]]]) -> LayerHistograms:
    values = {label: weights[name] for label, weights in tensors.items()}
    limit = max(float(np.quantile(np.abs(value), COVERED)) for value in values.values()) or 1.0
    # An odd number, so that 0 is the middle of a bin; fewer bins for small layers.
    bins = int(np.clip(np.sqrt(next(iter(values.values())).size), 9, MAX_BINS)) // 2 * 2 + 1
    edges = np.linspace(-limit, limit, bins + 1)
    density = {
        label: np.histogram(value, edges)[0] / (value.size * np.diff(edges))
        for label, value in values.items()
    }
    shape = next(iter(values.values())).shape
    statistics = {label: weight_statistics(value) for label, value in values.items()}
    return LayerHistograms(name, shape, edges, density, statistics)


def select_layers(layers: Sequence[LayerHistograms], names: str | None) -> list[LayerHistograms]:
    """Layers by name, separated by commas (default: first, middle and last convolution, else matrix)."""
    if names is not None:
        known = {layer.name: layer for layer in layers}
        for name in names.split(","):
            if name not in known:
                raise unknown("layer", name, known)
        return [known[name] for name in dict.fromkeys(names.split(","))]
    convolutions = [layer for layer in layers if len(layer.shape) == 4] or list(layers)
    indices = dict.fromkeys((0, (len(convolutions) - 1) // 2, len(convolutions) - 1))
    return [convolutions[index] for index in indices]


def to_data(
    labels: Sequence[str], loaded: Sequence[LoadedModel], layers: Sequence[LayerHistograms]
) -> dict[str, Any]:
    """The content of the JSON file: every layer, including those that are not drawn."""
    return {
        "kind": "weight-histograms",
        "version": VERSION,
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
            for layer in layers
        ],
    }


def histogram_figure(layers: Sequence[LayerHistograms]) -> Figure:
    """Densities on common bins, one panel per layer."""
    with figure_style.style():
        width = figure_style.COLUMN if len(layers) == 1 else 2.3 * len(layers)
        canvas, panels = figure_style.panels(len(layers), width=width, height=2.2)
        for axes, layer in zip(panels, layers, strict=True):
            for index, (label, density) in enumerate(layer.density.items()):
                line = figure_style.line(index, markers=False)
                axes.stairs(
                    density, layer.edges, label=label, color=line["color"], linestyle=line["linestyle"]
                )
            axes.set_title(f"{layer.name}\n({'×'.join(map(str, layer.shape))})", fontsize=7)
            axes.set_xlabel("weight")
            axes.locator_params(axis="y", nbins=4)
            axes.set_ylim(bottom=0)
        panels[0].set_ylabel("density (per unit of weight)")
        figure_style.legend(canvas, panels[-1])
    return canvas
