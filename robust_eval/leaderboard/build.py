"""Write the generated files of a board, and check that a board is complete and consistent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from robust_eval.core import regular_file
from robust_eval.core.errors import UserError
from robust_eval.core.folders import change_files
from robust_eval.leaderboard import (
    attachments,
    page_extras,
    robustbench_import,
    rules,
    submission,
)
from robust_eval.leaderboard.board import Board, lock_to_read
from robust_eval.leaderboard.page import html, markdown
from robust_eval.leaderboard.row import Row, read_row, result_files
from robust_eval.leaderboard.rules import Problem


def render_pages(board: Board, rows: Sequence[Row]) -> dict[str, str]:
    """File name to content of the Markdown table and the web page."""
    published = robustbench_import.published_entries(board)
    return {
        "README.md": markdown.render(board.title, rows, board.rank_by, published, board.about),
        html.FILE: html.render(
            board.title,
            rows,
            page_extras.read_extras(board.folder, rows),
            board.rank_by,
            published,
            board.about,
        ),
    }


def write_pages(board: Board, rows: Sequence[Row]) -> list[Path]:
    """Write the generated files of a locked board together; returns their paths."""
    pages = render_pages(board, rows)
    change_files(board.folder, {name: content.encode() for name, content in pages.items()})
    return [board.folder / name for name in pages]


def check_board(board: Board, base: Path | None = None) -> tuple[list[Row], list[Problem]]:
    """(rows that could be read, all problems of the board).

    ``base``: the board before a submission; see :func:`submission.check_submission`. Without it, the board is
    locked meanwhile and an interrupted change is completed; a submission is only read.
    """
    if base is None:
        with lock_to_read(board.folder):
            return _check(board, None)
    return _check(board, base)


def _check(board: Board, base: Path | None) -> tuple[list[Row], list[Problem]]:
    found = list(submission.unexpected_files(board.folder, untrusted=base is not None))
    rows = []
    for path in result_files(board.folder, skip_links=True):
        file = path.relative_to(board.folder).as_posix()
        try:
            rows.append(read_row(path, file))
        except UserError as error:
            found.append(Problem(file, f"is malformed: {error}"))
    found += rules.check_rows(board, rows)
    found += attachments.check_attachments(board.folder, rows)
    found += page_extras.check_extras(board.folder, rows)
    if base is not None:
        found += submission.check_submission(board.folder, base)
    if not any(problem.text.startswith("is malformed") for problem in found):
        found += _stale(board, rows)
    return rows, found


def _stale(board: Board, rows: Sequence[Row]) -> Iterator[Problem]:
    try:
        wanted = render_pages(board, rows)
    except UserError as error:
        yield Problem(board.folder.name, f"cannot be built: {error}")
        return
    for name, content in wanted.items():
        path = board.folder / name
        if not path.is_file():
            yield Problem(name, "is missing: run robust-eval leaderboard build")
        elif not _holds(path, content.encode()):
            yield Problem(name, "does not agree with the results: run robust-eval leaderboard build")


def _holds(path: Path, content: bytes) -> bool:
    try:
        return regular_file.read_bytes(path, "pages", len(content)) == content
    except UserError:
        return False
