"""``robust-eval leaderboard``: add results to a board, build and check it, export a result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from robust_eval.cli.options import completed
from robust_eval.core.command_options import expand_options, option

leaderboard_app = typer.Typer(
    help="Maintain a leaderboard: add results, build its tables, check them.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(help="The board, a folder with results/*.json.", show_default=False)]
ResultFile = Annotated[
    Path, typer.Argument(help="The result.json of a run.", show_default=False, callback=completed)
]


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """What ``add`` stores with a row, and where the evaluated images are."""

    images: bool = option(
        False,
        "Show some adversarial images on the page, from the evidence beside the result.",
        flags=("--images",),
    )
    curve: Path | None = option(
        None, "Show a learning curve on the page: the curve.csv beside the checkpoint in its training run."
    )
    checkpoint: Path | None = option(None, "Attach this file, the evaluated checkpoint (at most 8 MiB).")
    evidence: bool = option(
        False, "Attach the evidence beside the result (at most 8 MiB).", flags=("--evidence",)
    )
    data: str | None = option(
        None, "The evaluated data, if it cannot be loaded by the name in the result; for --images."
    )
    data_root: Path | None = option(None, "Folder that contains the datasets; for --images.")
    replace: bool = option(
        False,
        "Replace the row for the same checkpoint, or for the same recipe and seed.",
        flags=("--replace",),
    )


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """Facts about the paper that RobustBench asks for and that have a default."""

    authors: str = option("", "Authors, separated by commas.")
    venue: str = option("", "For example NeurIPS 2020; empty if unpublished.")
    link: str = option("", "Address of the paper.")


@leaderboard_app.callback()
def leaderboard() -> None:
    """Maintain a leaderboard: add results, build its tables, check them."""


@leaderboard_app.command(
    epilog="Example: robust-eval leaderboard add runs/at/result.json leaderboards/digits"
)
@expand_options
def add(result: ResultFile, board: Folder, options: AddOptions) -> None:
    """Add a result to a board, if it complies with the board's rules."""
    from robust_eval.leaderboard import submission
    from robust_eval.leaderboard.attachments import find_evidence
    from robust_eval.leaderboard.thumbnails import thumbnails_of_run

    pictures = thumbnails_of_run(result, options.data, options.data_root) if options.images else None
    submission.add_row(
        result,
        board,
        replace=options.replace,
        checkpoint=options.checkpoint,
        evidence=find_evidence(result) if options.evidence else None,
        curve=options.curve,
        pictures=pictures,
        log=typer.echo,
    )


@leaderboard_app.command(epilog="Example: robust-eval leaderboard build leaderboards/digits")
def build(
    board: Folder,
    title: Annotated[str | None, typer.Option(help="Heading (default: from the board's rules).")] = None,
) -> None:
    """Write README.md and index.html, with ranks, intervals and flags."""
    from robust_eval.core.text import count_of, printable
    from robust_eval.leaderboard.board import load_board, lock_board
    from robust_eval.leaderboard.build import write_pages
    from robust_eval.leaderboard.row import read_rows
    from robust_eval.leaderboard.rules import check_rows

    loaded = load_board(board, title)
    with lock_board(board):
        rows = read_rows(board)
        written = write_pages(loaded, rows)
    for path in written:
        typer.echo(f"{path}: {count_of(len(rows), 'row')}")
    for problem in check_rows(loaded, rows):
        typer.echo(f"leaderboard check will fail: {printable(problem.file)} {printable(problem.text)}")


@leaderboard_app.command(epilog="Example: robust-eval leaderboard check leaderboards/digits")
def check(
    board: Folder,
    against: Annotated[
        Path | None,
        typer.Option(help="The board before a submission: its rules apply, and its rows must be unchanged."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="The --title that was given to build.")] = None,
) -> None:
    """Check rows, files and generated tables of a board. Exits with 1 if there is a problem."""
    from robust_eval.core.text import count_of, printable
    from robust_eval.leaderboard.board import load_board
    from robust_eval.leaderboard.build import check_board

    rows, problems = check_board(load_board(board, title, against), against)
    for problem in problems:
        typer.echo(f"{printable(problem.file)} {printable(problem.text)}")
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{board}: {count_of(len(rows), 'row')}, tables and rules are correct")


@leaderboard_app.command(
    epilog="Example: robust-eval leaderboard export result.json --title '...' --no-additional-data"
)
@expand_options
def export(
    result: ResultFile,
    title: Annotated[str, typer.Option(help="Title of the paper.", show_default=False)],
    additional_data: Annotated[
        bool,
        typer.Option(
            "--additional-data/--no-additional-data",
            help="Whether training used more than the dataset's own images.",
            show_default=False,
        ),
    ],
    options: PaperOptions,
    out: Annotated[Path | None, typer.Option(help="Output file (default: print).")] = None,
) -> None:
    """Convert a result to RobustBench's model_info JSON, for submission to RobustBench."""
    from robust_eval.cli.options import read_consistent_result
    from robust_eval.core.files import write_text
    from robust_eval.leaderboard.robustbench_export import Paper, model_info

    paper = Paper(title=title, additional_data=additional_data, **vars(options))
    text = json.dumps(model_info(read_consistent_result(result), paper), indent=2) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"Written: {out}")
