"""The generated files of a board: what ``build`` writes and ``check`` compares. Pure but for reading."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text
from robust_eval.leaderboard import (
    attachments,
    page_extras,
    robustbench_import,
    rules,
    submission,
)
from robust_eval.leaderboard.board import Board
from robust_eval.leaderboard.page import html, markdown
from robust_eval.leaderboard.row import Row, read_row, result_files
from robust_eval.leaderboard.rules import Problem


def pages(board: Board, rows: Sequence[Row]) -> dict[str, str]:
    """File name to content: the Markdown table and the page."""
    reported = robustbench_import.reported(board)
    return {
        "README.md": markdown.board(board.title, rows, board.rank_by, reported, board.about),
        html.FILE: html.page(
            board.title, rows, page_extras.read(board.folder, rows), board.rank_by, reported, board.about
        ),
    }


def write(board: Board, rows: Sequence[Row]) -> list[Path]:
    written = []
    for name, content in pages(board, rows).items():
        write_text(board.folder / name, content)
        written.append(board.folder / name)
    return written


def check(board: Board, base: Path | None = None) -> tuple[list[Row], list[Problem]]:
    """The rows that could be read, and everything that is wrong with the board.

    ``base``: the board as it was before a submission; see :func:`filing.submission`.
    """
    found = list(submission.stray_files(board.folder))
    rows = []
    for path in result_files(board.folder):
        file = path.relative_to(board.folder).as_posix()
        try:
            rows.append(read_row(path, file))
        except UserError as error:
            found.append(Problem(file, f"is malformed: {error}"))
    found += rules.problems(board, rows)
    found += attachments.problems(board.folder, rows)
    found += page_extras.problems(board.folder, rows)
    if base is not None:
        found += submission.submission(board.folder, base)
    if not any(problem.text.startswith("is malformed") for problem in found):
        found += _stale(board, rows)
    return rows, found


def _stale(board: Board, rows: Sequence[Row]) -> Iterator[Problem]:
    try:
        wanted = pages(board, rows)
    except UserError as error:
        yield Problem(board.folder.name, f"cannot be built: {error}")
        return
    for name, content in wanted.items():
        path = board.folder / name
        if not path.is_file():
            yield Problem(name, "is missing: run robust-eval leaderboard build")
        elif path.read_text(encoding="utf-8") != content:
            yield Problem(name, "does not agree with the results: run robust-eval leaderboard build")
