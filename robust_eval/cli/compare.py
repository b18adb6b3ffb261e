"""``robust-eval compare``."""

from __future__ import annotations

from pathlib import Path

import typer

from robust_eval.cli.options import ResultFile, read_honest


def compare(a: ResultFile, b: ResultFile) -> None:
    """Two results on the same images: which is better under each column, and can one tell?"""
    from robust_eval.core.text import printable
    from robust_eval.results import comparison

    one, other = read_honest(a), read_honest(b)
    found = comparison.compare(one, other)
    names = _names((a, one.checkpoint.name), (b, other.checkpoint.name))
    typer.echo(f"{names[0]} and {names[1]} on {printable(one.data.name)}, {one.threat.norm} {one.threat.eps}")
    width = max(len(printable(entry.column, 40)) for entry in found.differences)
    typer.echo(f"  {'':{width}}  {_heading(names[0], 'A')}  {_heading(names[1], 'B')}")
    for entry in found.differences:
        figures = f"{100 * entry.accuracy_a:6.2f}  {100 * entry.accuracy_b:6.2f}"
        typer.echo(f"  {printable(entry.column, 40):{width}}  {figures}  {entry.sentence(*names)}")
    if {one.suite.precision, other.suite.precision} != {"float32"}:
        searched = " and ".join(
            f"{name} in {result.suite.precision}" for name, result in zip(names, (one, other), strict=True)
        )
        typer.echo(f"  the attacks searched {searched}; all verdicts are float32")
    for reason in found.left_out:
        typer.echo(f"  not compared: {printable(reason)}")
    typer.echo("Accuracies in percent; exact McNemar test, 95% bootstrap interval (± half of it), by image.")


def _heading(name: str, short: str) -> str:
    """Over a column of accuracies: the name where there is room, else its place on the command line."""
    return f"{name if len(name) <= 6 else short:>6}"


def _names(a: tuple[Path, str], b: tuple[Path, str]) -> tuple[str, str]:
    """What tells the two apart: the checkpoints' names, else the files', else A and B."""
    from robust_eval.core.text import printable

    for one, other in ((a[1], b[1]), (a[0].stem, b[0].stem), (a[0].parent.name, b[0].parent.name)):
        if one != other:
            return printable(one, 60), printable(other, 60)
    return "A", "B"
