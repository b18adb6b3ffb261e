"""``robust-eval compare``: compare two results on the same images by a paired test."""

from __future__ import annotations

from pathlib import Path

import typer

from robust_eval.cli.options import ResultFile, read_consistent_result


def compare(a: ResultFile, b: ResultFile) -> None:
    """Compare two results on the same examples (paired test), column by column."""
    from robust_eval.core.text import printable
    from robust_eval.results import checkpoint_claims, comparison

    first, second = read_consistent_result(a), read_consistent_result(b)
    found = comparison.compare(first, second)
    names = _names(
        *((path, checkpoint_claims.distinct_name(one.checkpoint)) for path, one in ((a, first), (b, second)))
    )
    typer.echo(
        f"{names[0]} and {names[1]} on {printable(first.data.name)}, {first.threat.norm} {first.threat.eps}"
    )
    width = max(len(printable(entry.column, 40)) for entry in found.differences)
    typer.echo(f"  {'':{width}}  {_heading(names[0], 'A')}  {_heading(names[1], 'B')}")
    for entry in found.differences:
        figures = f"{100 * entry.accuracy_a:6.2f}  {100 * entry.accuracy_b:6.2f}"
        typer.echo(f"  {printable(entry.column, 40):{width}}  {figures}  {entry.sentence(*names)}")
    precisions = (first.suite.precision, second.suite.precision)
    if set(precisions) != {"float32"}:
        parts = [f"of {name} in {value}" for name, value in zip(names, precisions, strict=True)]
        typer.echo(f"  attacks {', '.join(parts)}; all verdicts are float32")
    for reason in found.left_out:
        typer.echo(f"  not compared: {printable(reason)}")
    typer.echo(
        "Accuracies in percent; exact McNemar test and 95% bootstrap interval (± half of it) over examples."
    )


def _heading(name: str, short: str) -> str:
    """Heading of a column of accuracies: the name if it fits, otherwise A or B."""
    return f"{name if len(name) <= 6 else short:>6}"


def _names(a: tuple[Path, str], b: tuple[Path, str]) -> tuple[str, str]:
    """Distinct names for two results: of the checkpoints, else of the files, the folders, or A and B."""
    from robust_eval.core.text import printable

    for first, second in ((a[1], b[1]), (a[0].stem, b[0].stem), (a[0].parent.name, b[0].parent.name)):
        if first != second:
            return printable(first, 60), printable(second, 60)
    return "A", "B"
