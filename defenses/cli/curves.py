"""``defenses curves``."""

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
        typer.Option(help="A log of another run as CSV, or a folder of them: dashed lines; repeatable."),
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Names for the legend, separated by commas; default: the folders'.")
    ] = None,
    against_flatness: Annotated[
        list[Path] | None,
        typer.Option(
            help="JSON of robust-eval landscape curve on these runs' checkpoints: draw their gap against "
            "their sharpness instead, with the correlation; repeatable."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="OUT.png, OUT.svg and OUT.json are written.")] = Path("curves"),
) -> None:
    """Learning curves of several runs in one figure, or their gap against their landscapes' flatness."""
    from defenses.reports.figures import gap_flatness, learning_curves, references
    from defenses.runs.reading import find_runs, labels
    from robust_eval.core import figure_style
    from robust_eval.core.errors import UserError

    if reference and against_flatness:
        raise UserError(
            "--reference belongs to learning curves: leave it out, or leave out --against-flatness."
        )
    found = find_runs(runs)
    called = labels(found, names)
    if against_flatness:
        spots = gap_flatness.match(found, called, gap_flatness.read_flatness(against_flatness))
        paths = figure_style.save(gap_flatness.draw(spots), out, gap_flatness.data(spots))
        measured = gap_flatness.correlation(spots)
        if measured.spearman is None:
            typer.echo(f"{measured.n} checkpoints: too few, or too alike, for a correlation.")
        else:
            typer.echo(
                f"{measured.n} checkpoints: gap against sharpness, Spearman {measured.spearman:.3f}, "
                f"Pearson {measured.pearson:.3f}"
            )
    else:
        others = references.read(reference or [])
        drawn, part = learning_curves.lines(found, called, others)
        paths = figure_style.save(learning_curves.draw(drawn), out, learning_curves.data(drawn, part, found))
        for run, name in zip(found, called, strict=True):
            typer.echo(f"  {name}: {_ends(run.last, part)}; best at epoch {run.best['epoch']:.0f}")
        silent = [other.name for other in others if other.train_robust is None]
        if silent:
            typer.echo(
                f"  Only their test accuracies are drawn: {', '.join(silent)} (no training figures at w)."
            )
    typer.echo(f"Written: {', '.join(map(str, paths))}")


def _ends(row: Row, part: str) -> str:
    if "train_pgd" not in row or f"{part}_pgd" not in row:
        return "no gap was measured"
    train, unseen = 100 * row["train_pgd"], 100 * row[f"{part}_pgd"]
    return (
        f"epoch {row['epoch']:.0f}: train {train:.1f}%, unseen {unseen:.1f}%, gap {train - unseen:.1f} points"
    )
