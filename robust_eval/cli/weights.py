"""``robust-eval weights``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robust_eval.cli.options import Arch


def weights(
    checkpoints: Annotated[
        list[str], typer.Argument(help="Checkpoints of one architecture.", show_default=False)
    ],
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to draw, by name; the first, middle and last convolution by default."),
    ] = None,
    arch: Arch = None,
    names: Annotated[str | None, typer.Option(help="Labels in the figure: AT,AT-AWP.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for weights.png, .svg and .json.")] = Path("runs/weights"),
) -> None:
    """Histograms of the weights of each layer, and what they say in numbers."""
    from rich.markup import escape
    from rich.table import Table

    from robust_eval.core import figure_style, terminal
    from robust_eval.landscape import weight_histograms

    labels, loaded = weight_histograms.load(checkpoints, names, arch)
    found = weight_histograms.layers(labels, loaded)
    shown = weight_histograms.chosen(found, layers)
    table = Table(title="Weights", title_justify="left", pad_edge=False)
    for place, head in enumerate(
        ("layer", "checkpoint", "n", "norm", "std", "mean |w|", "skewness", "max |w|")
    ):
        table.add_column(head, justify="left" if place < 2 else "right")
    for layer in found:
        for label, entry in layer.statistics.items():
            figures = (entry.norm, entry.std, entry.mean_abs, entry.skewness, entry.largest)
            table.add_row(layer.name, label, str(entry.n), *(f"{value:.4g}" for value in figures))
    console = terminal.console()
    console.print(table)
    figure_style.save(
        weight_histograms.draw(shown), out / "weights", weight_histograms.to_data(labels, loaded, found)
    )
    stem = escape(str(out / "weights"))
    console.print(f"Written: {stem}.png, {stem}.svg, {stem}.json", soft_wrap=True)
