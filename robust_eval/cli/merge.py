"""``robust-eval merge``: combine the folders that ``run --shard`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from robust_eval.core import terminal


def merge(
    folders: Annotated[list[Path], typer.Argument(help="The shards' folders.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The merged run's folder (default: the shards' name without .shard-I-of-N)."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="The suite of the shards, if it names the code of an attack.")
    ] = None,
) -> None:
    """Combine the shards of one request and write its result. Nothing is attacked."""
    from robust_eval.cli import tables
    from robust_eval.evaluation.executors.merge import merge_shards
    from robust_eval.evaluation.planning import suites

    if suite is not None:
        suites.load(suite)
    console = terminal.console()
    target, result = merge_shards(folders, out)
    tables.print_result(console, result)
    console.print(f"\nWritten: {escape(str(target / 'result.json'))}")
