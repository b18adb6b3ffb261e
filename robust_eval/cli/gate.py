"""``robust-eval gate``: exit with 1 unless a result reaches a minimum robust accuracy."""

from __future__ import annotations

from typing import Annotated

import typer

from robust_eval.cli.options import ResultFile, read_consistent_result


def gate(
    result: ResultFile,
    min_robust: Annotated[
        float, typer.Option(help="Minimum robust accuracy, in percent.", show_default=False)
    ],
    column: Annotated[str, typer.Option(help="Column id, or worst-case.")] = "worst-case",
) -> None:
    """Exit with 1 if robust accuracy is below a minimum, the result is partial, or a flag blocks ranking."""
    from robust_eval.results.gate import failures, find_column, parse_minimum

    minimum = parse_minimum(min_robust)
    found = read_consistent_result(result)
    reasons = failures(found, column, minimum)
    for reason in reasons:
        typer.echo(f"Not passed: {reason}")
    if reasons:
        raise typer.Exit(1)
    count = find_column(found, column)
    typer.echo(f"Passed: {100 * count.accuracy:.2f}% under {column}, minimum {minimum:g}%.")
