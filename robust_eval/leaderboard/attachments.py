"""What a board keeps of a row for those who want to judge it again: the checkpoint and the evidence.

``<stem>.pt`` (or ``.pth``, ``.safetensors``) is the checkpoint file as it was evaluated, and
``<stem>.evidence.safetensors`` the adversarial images. Both are kept only where they are small; a row without
them names them by their hashes. ``robust-eval verify`` finds them beside the result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic, writing
from robust_eval.leaderboard.row import CHECKPOINT_SUFFIXES, EVIDENCE_SUFFIX, Row, companion
from robust_eval.leaderboard.rules import Problem
from robust_eval.results import EVIDENCE_FILE, EvalResult

LARGEST = 8 * 2**20
"""Bytes of one file: a board lives in version control."""


def checkpoint_beside(result: Path) -> Path | None:
    """The checkpoint that is kept beside a filed result, if one is."""
    candidates = (companion(result, suffix) for suffix in CHECKPOINT_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def evidence_beside(result: Path) -> Path | None:
    """The evidence that is kept beside a filed result, if it is."""
    path = companion(result, EVIDENCE_SUFFIX)
    return path if path.is_file() else None


def evidence_near(result: Path) -> Path:
    """The evidence of a filed row or of a run, whichever lies there; where a run's would be, if none does."""
    return evidence_beside(result) or result.with_name(EVIDENCE_FILE)


def checkpoint_of(result: EvalResult, path: Path) -> tuple[str, bytes]:
    """(suffix, content) of a checkpoint to be kept, once it is known to be the row's.

    Raises :class:`UserError` for another checkpoint than the row's, one that is too large, or no file.
    """
    suffix = path.suffix if path.suffix in CHECKPOINT_SUFFIXES else CHECKPOINT_SUFFIXES[0]
    return suffix, _content(path, result.checkpoint.sha256, "checkpoint")


def evidence_of(result: EvalResult, path: Path) -> tuple[str, bytes]:
    """The same for the evidence of a run."""
    if result.evidence is None:
        raise UserError(f"{path.parent} kept no evidence: leave --evidence out.")
    return EVIDENCE_SUFFIX, _content(path, result.evidence.sha256, "evidence")


def keep(result: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write (suffix, content) beside a filed result."""
    for suffix, content in files:
        path = companion(result, suffix)
        with writing(path.parent), atomic(path) as file:
            file.write(content)


def problems(board: Path, rows: Sequence[Row]) -> Iterator[Problem]:
    """Kept files that are not what their row was made of."""
    for row in rows:
        result = board / row.file
        wanted = dict.fromkeys(CHECKPOINT_SUFFIXES, row.result.checkpoint.sha256)
        wanted[EVIDENCE_SUFFIX] = row.result.evidence.sha256 if row.result.evidence else ""
        for suffix in row.kept:
            path = companion(result, suffix)
            name = path.relative_to(board).as_posix()
            if path.stat().st_size > LARGEST:
                yield Problem(name, f"is larger than {LARGEST // 2**20} MiB: the row's hash describes it")
            elif hashlib.sha256(_read(path)).hexdigest() != wanted[suffix]:
                yield Problem(name, "is not the file that its row was made of, by its sha256")


def _content(path: Path, sha256: str, what: str) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} is not a file. Name the row's {what}.")
    if path.stat().st_size > LARGEST:
        raise UserError(
            f"{path} is larger than {LARGEST // 2**20} MiB, too much for a board in version control. "
            "File the row without it: the hash in the result describes it."
        )
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is not the {what} of this row, by its sha256. Name the file that was used.")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
