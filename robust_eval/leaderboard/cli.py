"""``robust-eval leaderboard``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Build a leaderboard from result files.", no_args_is_help=True)


@app.callback()
def leaderboard() -> None:
    """Build a leaderboard from result files."""


@app.command(epilog="Example: robust-eval leaderboard build leaderboards/digits")
def build(
    folder: Annotated[Path, typer.Argument(help="The board: a folder with results/*.json.")],
    title: Annotated[str | None, typer.Option(help="Heading; the folder's name by default.")] = None,
) -> None:
    """Write README.md and index.html: ranked by worst case, with intervals and flags."""
    from robust_eval.core.files import write_text
    from robust_eval.leaderboard import markdown, rows, site

    found = rows.read_board(folder)
    heading = title or folder.resolve().name
    page = folder / "README.md"
    write_text(page, markdown.board(heading, found))
    typer.echo(f"{page}: {len(found)} rows")
    typer.echo(f"{site.write(folder, heading, found)}: the same as a page")
