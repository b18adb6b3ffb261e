"""``robust-eval landscape weights``: draw histograms of each layer's weights and print their statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust_eval.cli.landscape.frame import new_table, write_figure
from robust_eval.cli.landscape.options import Checkpoints


def weights(
    checkpoints: Checkpoints,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to draw, separated by commas (default: the first, middle and last convolution)."
        ),
    ] = None,
    arch: Annotated[
        str | None, typer.Option(help="Architecture id, or path.py:function, whose code is run.")
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(help="Labels of the checkpoints, separated by commas, for example AT,AT-AWP."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder, for weights.png, weights.svg and weights.json.")
    ] = None,
) -> None:
    """Draw histograms of the weights of each layer and print their statistics (Wu et al. 2020, Figure 4)."""
    from robust_eval.core import terminal
    from robust_eval.evaluation.store import lock_run_folder, open_run
    from robust_eval.landscape.checkpoints import default_folder
    from robust_eval.landscape.weight_histograms import (
        KIND,
        histogram_figure,
        identity,
        layer_histograms,
        load_models,
        select_layers,
        to_data,
    )

    labels, loaded = load_models(checkpoints, names, arch)
    measured = identity(loaded)
    folder = out or default_folder(KIND, labels, measured)
    histograms = layer_histograms(labels, loaded)
    figure = histogram_figure(select_layers(histograms, layers))
    table = new_table(
        "Weights",
        *("layer", "checkpoint", "n", "norm", "std", "mean |w|", "skewness", "max |w|"),
        text_columns=(0, 1),
    )
    for layer in histograms:
        for label, one in layer.statistics.items():
            values = (one.norm, one.std, one.mean_abs, one.skewness, one.largest)
            table.add_row(layer.name, label, str(one.n), *(f"{value:.4g}" for value in values))
    console = terminal.console()
    console.print(table)
    with lock_run_folder(folder):
        open_run(folder, measured)
        write_figure(console, figure, folder / KIND, to_data(labels, loaded, histograms))
