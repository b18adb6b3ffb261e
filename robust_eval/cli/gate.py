"""``robust-eval gate``."""

from __future__ import annotations

from typing import Annotated

import typer

from robust_eval.cli.options import ResultFile, read_consistent_result


def gate(
    result: ResultFile,
    min_robust: Annotated[float, typer.Option(help="The floor, in percent.", show_default=False)],
    column: Annotated[str, typer.Option(help="A column's id, or worst-case.")] = "worst-case",
) -> None:
    """Exit with 1 if robust accuracy is below a floor, or the result is partial or blocked."""
    from robust_eval.results import gate as rules

    floor = rules.parse_floor(min_robust)
    found = read_consistent_result(result)
    reasons = rules.failures(found, column, floor)
    for reason in reasons:
        typer.echo(f"Not passed: {reason}")
    if reasons:
        raise typer.Exit(1)
    count = rules.chosen(found, column)
    typer.echo(f"Passed: {100 * count.accuracy:.2f}% under {column}, floor {floor:g}%.")
