"""Attachments of a row: its checkpoint and evidence, from which the row can be verified.

``<stem>.pt`` (or ``.pth``, ``.safetensors``) is the evaluated checkpoint file, and
``<stem>.evidence.safetensors`` the adversarial images. Both are optional; the result records their hashes.
``robust-eval verify`` finds them beside the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from robust_eval.core import regular_file
from robust_eval.core.errors import UserError
from robust_eval.leaderboard.row import CHECKPOINT_SUFFIXES, EVIDENCE_SUFFIX, Row, companion
from robust_eval.leaderboard.rules import Problem
from robust_eval.results import EVIDENCE_FILE, EvalResult

MAX_BYTES = 8 * 2**20
"""Largest size of an attachment in bytes, because boards are kept in version control."""


def attached_checkpoint(result: Path) -> Path | None:
    """The checkpoint attached to a row, if any."""
    candidates = (companion(result, suffix) for suffix in CHECKPOINT_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def attached_evidence(result: Path) -> Path | None:
    """The evidence attached to a row, if any."""
    path = companion(result, EVIDENCE_SUFFIX)
    return path if path.is_file() else None


def find_evidence(result: Path) -> Path:
    """Path of the evidence attached to a row, else of the evidence in a run folder (which need not exist)."""
    return attached_evidence(result) or result.with_name(EVIDENCE_FILE)


def read_checkpoint(result: EvalResult, path: Path) -> tuple[str, bytes]:
    """(suffix, content) of the row's checkpoint.

    Raises :class:`UserError` if the file is missing, too large, or not the checkpoint of the result.
    """
    suffix = path.suffix if path.suffix in CHECKPOINT_SUFFIXES else CHECKPOINT_SUFFIXES[0]
    return suffix, _content(path, result.checkpoint.sha256, "checkpoint")


def read_evidence(result: EvalResult, path: Path) -> tuple[str, bytes]:
    """(suffix, content) of the row's evidence. Raises like :func:`read_checkpoint`."""
    if result.evidence is None:
        raise UserError(f"{path.parent} has no evidence. Omit --evidence.")
    return EVIDENCE_SUFFIX, _content(path, result.evidence.sha256, "evidence")


def check_attachments(board: Path, rows: Sequence[Row]) -> Iterator[Problem]:
    """Attachments that are too large or do not have the hash that their row records."""
    for row in rows:
        result = board / row.file
        wanted = dict.fromkeys(CHECKPOINT_SUFFIXES, row.result.checkpoint.sha256)
        wanted[EVIDENCE_SUFFIX] = row.result.evidence.sha256 if row.result.evidence else ""
        for suffix in row.attachments:
            path = companion(result, suffix)
            name = path.relative_to(board).as_posix()
            if path.stat().st_size > MAX_BYTES:
                yield Problem(
                    name, f"is larger than {MAX_BYTES // 2**20} MiB: remove it, the row records its hash"
                )
            elif hashlib.sha256(_read(path)).hexdigest() != wanted[suffix]:
                yield Problem(name, "does not have the sha256 that its row records")


def _content(path: Path, sha256: str, what: str) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} is not a file. Give the row's {what}.")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(
            f"{path} is larger than {MAX_BYTES // 2**20} MiB, too much for a board in version control. "
            "Add the row without it: the result records its hash."
        )
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(
            f"{path} is not the {what} of this row: its sha256 differs. Give the file that was evaluated."
        )
    return content


def _read(path: Path) -> bytes:
    return regular_file.read_bytes(path, "attachments", MAX_BYTES)
