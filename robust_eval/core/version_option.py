"""The option ``--version`` of a command with subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from robust_eval.core.versions import written_by


def _show(wanted: bool) -> None:
    if wanted:
        typer.echo(written_by())
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before the command."""


def add_version_option(app: typer.Typer) -> None:
    """Let the command ``app`` with ``--version`` print ``robust-eval 0.1.0`` and exit."""
    app.callback()(_common)
