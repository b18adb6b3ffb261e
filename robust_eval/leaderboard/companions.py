"""Companion files of a row: those that exist, those that apply to its replacement, its verification."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

from robust_eval.core import regular_file, strict_json
from robust_eval.core.errors import UserError
from robust_eval.leaderboard.attachments import MAX_BYTES
from robust_eval.leaderboard.board import lock_board
from robust_eval.leaderboard.row import (
    CHECKPOINT_SUFFIXES,
    COMPANION_SUFFIXES,
    CURVE_SUFFIX,
    EVIDENCE_SUFFIX,
    IMAGES_SUFFIX,
    RESULTS,
    Row,
    companion,
)
from robust_eval.results import content_digest, verification_record
from robust_eval.results.verification_record import Verification


def companions(result: Path) -> list[Path]:
    """The existing companion files of a result."""
    files = (companion(result, suffix) for suffix in COMPANION_SUFFIXES)
    return [path for path in files if path.is_file()]


def still_valid(board: Path, old: Row, new: Row) -> Iterator[tuple[str, bytes]]:
    """(suffix, content) of the companion files of a replaced row that also apply to the new row.

    Raises :class:`UserError` for a file that is larger than an attachment may be.
    """
    suffixes: tuple[str, ...] = ()
    if old.result.checkpoint.sha256 == new.result.checkpoint.sha256:
        suffixes += (CURVE_SUFFIX, *CHECKPOINT_SUFFIXES)
    if old.result.evidence is not None and old.result.evidence == new.result.evidence:
        suffixes += (IMAGES_SUFFIX, EVIDENCE_SUFFIX)
    for suffix in suffixes:
        path = companion(board / old.file, suffix)
        if path.is_file():
            yield suffix, regular_file.read_bytes(path, "attachments", MAX_BYTES)


def record_verification(result: Path, record: Verification) -> Path | None:
    """Store a verification beside its result; None if the record there covers it.

    Raises :class:`UserError` if the result is no longer the one that was verified, or if writing fails.
    """
    path, folder = verification_record.path_beside(result), result.absolute().parent
    with lock_board(folder.parent) if folder.name == RESULTS else nullcontext():
        if content_digest(strict_json.read(result)) != record.result:
            raise UserError(f"{result} has changed since it was read: verify it again.")
        if verification_record.is_covered(path, record):
            return None
        verification_record.write(path, record)
    return path
