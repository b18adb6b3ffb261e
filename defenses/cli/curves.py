"""``defenses curves``: draw learning curves of runs, or their robust generalisation gap against flatness."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from defenses.cli.options import Runs

if TYPE_CHECKING:
    from defenses.runs.reading import Row


def curves(
    runs: Runs,
    reference: Annotated[
        list[Path] | None,
        typer.Option(help="CSV log of another run, or a folder of logs, drawn as dashed lines; repeatable."),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(help="Names for the legend, separated by commas (default: the folder names)."),
    ] = None,
    against_flatness: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON file of robust-eval landscape curve for checkpoints of these runs: draw the robust "
            "generalisation gap against sharpness instead, with the correlation; repeatable."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Write OUT.png, OUT.svg and OUT.json.")] = Path("curves"),
) -> None:
    """Draw the learning curves of several runs, or their robust generalisation gap against flatness."""
    from defenses.reports.figures import gap_flatness, learning_curves, references
    from defenses.runs.reading import find_runs, labels
    from robust_eval.core import figure_style
    from robust_eval.core.errors import UserError
    from robust_eval.core.text import count_of

    if reference and against_flatness:
        raise UserError(
            "--reference applies to learning curves: give either --reference or --against-flatness."
        )
    found = find_runs(runs)
    legend = labels(found, names)
    if against_flatness:
        checkpoints = gap_flatness.match(found, legend, gap_flatness.read_flatness(against_flatness))
        paths = figure_style.save(gap_flatness.draw(checkpoints), out, gap_flatness.data(checkpoints))
        measured = gap_flatness.correlation(checkpoints)
        compared = count_of(measured.n, "checkpoint")
        if measured.spearman is None:
            typer.echo(f"{compared}: no correlation, which needs three checkpoints with different values.")
        else:
            typer.echo(
                f"{compared}: gap against sharpness, Spearman {measured.spearman:.3f}, "
                f"Pearson {measured.pearson:.3f}"
            )
    else:
        others = references.read(reference or [])
        drawn, part = learning_curves.lines(found, legend, others)
        paths = figure_style.save(learning_curves.draw(drawn), out, learning_curves.data(drawn, part, found))
        for run, name in zip(found, legend, strict=True):
            typer.echo(f"  {name}: {_ends(run.last, part)}; best at epoch {run.best['epoch']:.0f}")
        test_only = [other.name for other in others if other.train_robust is None]
        if test_only:
            typer.echo(
                f"  Only the test accuracies are drawn: {', '.join(test_only)} (no training accuracy at w)."
            )
    typer.echo(f"Written: {', '.join(map(str, paths))}")


def _ends(row: Row, part: str) -> str:
    if "train_pgd" not in row or f"{part}_pgd" not in row:
        return "no gap was measured"
    train, unseen = 100 * row["train_pgd"], 100 * row[f"{part}_pgd"]
    return (
        f"epoch {row['epoch']:.0f}: train {train:.1f}%, unseen {unseen:.1f}%, gap {train - unseen:.1f} points"
    )
