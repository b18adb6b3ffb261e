"""``robust-eval merge``: the folders that ``run --shard`` wrote, put together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from robust_eval.core import terminal


def merge(
    folders: Annotated[list[Path], typer.Argument(help="The shards' folders.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The merged run's folder; else the shards' own without .shard-I-of-N.")
    ] = None,
) -> None:
    """Put the shards of one request together and write its row; attacks nothing."""
    from robust_eval.cli import tables
    from robust_eval.evaluation.executors import shards

    console = terminal.console()
    target, result = shards.merge(folders, out)
    tables.print_result(console, result)
    console.print(f"\nWritten: {escape(str(target / 'result.json'))}")
