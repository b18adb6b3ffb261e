"""``robust-eval leaderboard``: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Keep a leaderboard: file results, build its tables, check them.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(help="The board: a folder with results/*.json.", show_default=False)]
ResultFile = Annotated[Path, typer.Argument(help="A run's result.json.", show_default=False)]


@app.callback()
def leaderboard() -> None:
    """Keep a leaderboard: file results, build its tables, check them."""


@app.command(epilog="Example: robust-eval leaderboard add runs/at/result.json leaderboards/digits")
def add(
    result: ResultFile,
    board: Folder,
    images: Annotated[
        bool,
        typer.Option("--images", help="Show some adversarial images, from the evidence beside the result."),
    ] = False,
    curve: Annotated[
        Path | None, typer.Option(help="Show a learning curve: the curve.csv that training left.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Keep this file, the row's checkpoint, on the board (8 MiB at most).")
    ] = None,
    evidence: Annotated[
        bool,
        typer.Option("--evidence", help="Keep the evidence beside the result on the board (8 MiB at most)."),
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="The images that were judged, where the result's name is not enough.")
    ] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder that holds the datasets.")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="In place of the row for this checkpoint, or recipe and seed."),
    ] = False,
) -> None:
    """File a run on a board whose rules it keeps."""
    from robust_eval.leaderboard import (
        attachments,
        page_extras,
        submission,
        thumbnails,
    )

    shown = thumbnails.of_run(result, data, data_root) if images else None
    learned = page_extras.checked_curve(curve) if curve else None
    proof = attachments.evidence_near(result) if evidence else None
    before = submission.filed(board)
    path = submission.add(result, board, replace=replace, checkpoint=checkpoint, evidence=proof)
    typer.echo(f"Filed: {path}")
    page_extras.write(path, learned, shown)
    for beside in submission.beside(path):
        typer.echo(f"Beside it: {beside}")
    for gone in sorted(before - submission.filed(board)):
        typer.echo(f"Gone with the row that gave way: {gone}")


@app.command(epilog="Example: robust-eval leaderboard build leaderboards/digits")
def build(
    board: Folder,
    title: Annotated[str | None, typer.Option(help="Heading; the board's own by default.")] = None,
) -> None:
    """Write README.md and index.html, with ranks, intervals and flags."""
    from robust_eval.core.text import count_of, printable
    from robust_eval.leaderboard import board as boards
    from robust_eval.leaderboard import build as building
    from robust_eval.leaderboard import row as rows
    from robust_eval.leaderboard import rules

    found, described = rows.read_board(board), boards.load(board, title)
    for path in building.write(described, found):
        typer.echo(f"{path}: {count_of(len(found), 'row')}")
    for problem in rules.problems(described, found):
        typer.echo(f"check will refuse {printable(problem.file)}: it {printable(problem.text)}")


@app.command(epilog="Example: robust-eval leaderboard check leaderboards/digits")
def check(
    board: Folder,
    against: Annotated[
        Path | None,
        typer.Option(help="The board before a submission: its rules count, its rows must stay."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="As given to build.")] = None,
) -> None:
    """Exit with 1 if the tables disagree with the results, or a row breaks a rule."""
    from robust_eval.core.text import count_of, printable
    from robust_eval.leaderboard import board as boards
    from robust_eval.leaderboard import build as building

    rows, problems = building.check(boards.load(board, title, against), against)
    for problem in problems:
        typer.echo(f"{printable(problem.file)} {printable(problem.text)}")
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{board}: {count_of(len(rows), 'row')}, tables and rules hold")


@app.command(epilog="Example: robust-eval leaderboard export result.json --title '...' --no-additional-data")
def export(
    result: ResultFile,
    title: Annotated[str, typer.Option(help="The paper's title.", show_default=False)],
    additional_data: Annotated[
        bool,
        typer.Option(
            "--additional-data/--no-additional-data",
            help="Whether training saw more than the data set's own images.",
            show_default=False,
        ),
    ],
    authors: Annotated[str, typer.Option(help="Separated by commas.")] = "",
    venue: Annotated[str, typer.Option(help="For example NeurIPS 2020; empty for unpublished.")] = "",
    link: Annotated[str, typer.Option(help="The paper's address.")] = "",
    out: Annotated[Path | None, typer.Option(help="A file; default: print it.")] = None,
) -> None:
    """A result as RobustBench's model_info JSON, for submission there."""
    from robust_eval.cli.options import read_honest
    from robust_eval.core.files import write_text
    from robust_eval.leaderboard import robustbench_export

    paper = robustbench_export.Paper(
        title=title, additional_data=additional_data, authors=authors, venue=venue, link=link
    )
    text = json.dumps(robustbench_export.model_info(read_honest(result), paper), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"Written: {out}")
