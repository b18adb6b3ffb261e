"""The frame of all landscape commands: load checkpoints, measure in a run folder, print, write the figure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer

from robust_eval.cli.landscape.options import OutputOptions
from robust_eval.evaluation.planning.options import (
    DataOptions,
    EvaluationOptions,
    ModelOptions,
    ThreatOptions,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table

    from robust_eval.landscape.checkpoints import ModelComparison


class ResumableMeasurement(Protocol):
    """A measurement of several checkpoints whose finished parts are stored in a folder."""

    @property
    def comparison(self) -> ModelComparison: ...
    def caption(self) -> str: ...
    def default_folder(self) -> Path: ...


def load_checkpoints(
    checkpoints: Sequence[str],
    data: DataOptions,
    threat: ThreatOptions,
    model: ModelOptions,
    output: OutputOptions,
) -> ModelComparison:
    """The checkpoints with their labels, images and threat model.

    Raises :class:`UserError` also if the figure of the measurement could not be drawn.
    """
    from robust_eval.core import figure_style
    from robust_eval.landscape.checkpoints import load_comparison

    figure_style.check_installed()
    options = EvaluationOptions(**vars(data), **vars(threat), **vars(model))
    return load_comparison(checkpoints, options, output.names)


@contextmanager
def run_folder(
    console: Console,
    measurement: ResumableMeasurement,
    out: Path | None,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Print what is measured and yield the run folder.

    When it is interrupted, print where the finished work is stored and exit. ``notes``: further lines to
    print.
    """
    from rich.markup import escape

    from robust_eval.core import signals

    folder = out or measurement.default_folder()
    for model in measurement.comparison.models:
        console.print(f"  [bold]{escape(model.label)}[/bold]  {escape(model.ref.name)}", highlight=False)
    lines = {"measured on": f"{measurement.caption()}, BatchNorm in eval mode", **(notes or {})}
    for name, text in (lines | {"folder": str(folder)}).items():
        console.print(f"  {name:12} {escape(text)}", highlight=False, soft_wrap=True)
    console.print()
    try:
        yield folder
    except KeyboardInterrupt:
        console.print(
            f"\nInterrupted. Finished work is in {escape(str(folder))}: run the same command to continue."
        )
        raise typer.Exit(signals.exit_code()) from None


def new_table(title: str, *heads: str, text_columns: Sequence[int] = (0,)) -> Table:
    """A table with the given column heads; columns other than ``text_columns`` are right-aligned."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", pad_edge=False)
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index in text_columns else "right")
    return table


def write_figure(console: Console, figure: Figure, stem: Path, data: Mapping[str, Any]) -> None:
    """Write ``stem.json``, ``stem.png`` and ``stem.svg`` and print their paths."""
    from rich.markup import escape

    from robust_eval.core import figure_style

    paths = figure_style.save(figure, stem, data)
    console.print(f"Written: {escape(', '.join(map(str, paths)))}", highlight=False, soft_wrap=True)
