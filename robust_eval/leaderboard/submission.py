"""Add a row to a board, and check which files a submission may change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from robust_eval.core import regular_file, strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.files import report_write_errors, write_text
from robust_eval.core.text import printable
from robust_eval.leaderboard import attachments, rules
from robust_eval.leaderboard.board import RULES_FILE, load_board
from robust_eval.leaderboard.row import (
    CHECKPOINT_SUFFIXES,
    COMPANION_SUFFIXES,
    CURVE_SUFFIX,
    EVIDENCE_SUFFIX,
    IMAGES_SUFFIX,
    RESULTS,
    Row,
    companion,
    read_row,
    read_rows,
)
from robust_eval.leaderboard.rules import Problem
from robust_eval.results import content_digest, verification_record

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
# Separators that are replaced by a dash; other special characters are rejected.
_SEPARATORS = re.compile(r"[ :@+=,()\[\]#]+")
GENERATED_FILES = ("README.md", "index.html")


def file_name(row: Row) -> str:
    """``<name>-<digest>.json``: valid in every file system and determined by the content.

    The name is that of the recipe if the checkpoint records one that is a valid file name, else that of the
    checkpoint. Raises :class:`UserError` if the checkpoint's name is not a valid file name.
    """
    name = row.result.checkpoint.name
    stem = _stem(name)
    if stem is None:
        raise UserError(
            f"The checkpoint's name {printable(name, 60)!r} cannot be a file name. Rename it with at most "
            "80 letters, digits, '.', '_' and '-', and evaluate again."
        )
    digest = content_digest(row.result.model_dump(mode="json"))
    return f"{_stem(row.name) or stem}-{digest[:8]}.json"


def _stem(name: str) -> str | None:
    """The name as part of a file name; None if it is not valid."""
    bare = name.removesuffix(".pt").removesuffix(".pth").removesuffix(".safetensors")
    stem = _SEPARATORS.sub("-", bare).strip("-")
    return stem if FILE_NAME.fullmatch(stem) and ".." not in stem else None


def add_row(
    result: Path,
    folder: Path,
    *,
    replace: bool = False,
    checkpoint: Path | None = None,
    evidence: Path | None = None,
) -> Path:
    """Add a result to a board, with its verification if one for this content is stored beside it.

    ``replace``: replace the row for the same checkpoint, or for a repeated training with the same recipe and
    seed; its companion files that also apply to the new row are kept. ``checkpoint`` and ``evidence``: files
    to attach to the row. The board's folder is created if its parent exists. Returns the path of the new row.
    Raises :class:`UserError`, without writing anything, if the row breaks a rule or is already on the board.
    """
    row = read_row(result, result.name)
    name = file_name(row)
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder.parent} is not a folder. Create it first, or give an existing board.")
    board = load_board(folder, must_exist=folder.exists())
    results = folder / RESULTS
    if results.is_symlink():
        raise UserError(f"{results} is a symbolic link out of the board. Replace it by a folder.")
    rows = read_rows(folder) if results.is_dir() and any(results.glob("*.json")) else []
    same = rules.same_training if replace else rules.same_checkpoint
    replaced = [other for other in rows if same(other.result, row.result)]
    if replaced and not replace:
        raise UserError(
            f"{folder} already has a row for this checkpoint: {replaced[0].file}. "
            "Add --replace to replace it."
        )
    broken_rules = list(rules.check_row(board, row))
    if broken_rules:
        reasons = "; it ".join(broken_rules)
        raise UserError(f"{result} does not belong on {folder.resolve().name}: it {reasons}.")
    given = [] if checkpoint is None else [attachments.read_checkpoint(row.result, checkpoint)]
    given += [] if evidence is None else [attachments.read_evidence(row.result, evidence)]
    files = [file for old in replaced for file in _still_valid(folder, old, row, checkpoint is None)] + given
    with report_write_errors(results):
        results.mkdir(parents=True, exist_ok=True)
    for old in replaced:
        remove_row(folder, old)
    path = results / name
    write_text(path, row.result.to_json())
    if row.verification is not None and row.verification.result == content_digest(strict_json.read(path)):
        verification_record.write(verification_record.path_beside(path), row.verification)
    attachments.write(path, files)
    return path


def _still_valid(folder: Path, old: Row, new: Row, keep_checkpoint: bool) -> Iterator[tuple[str, bytes]]:
    """(suffix, content) of the companion files of a replaced row that also apply to the new row."""
    suffixes: tuple[str, ...] = ()
    if old.result.checkpoint.sha256 == new.result.checkpoint.sha256:
        suffixes += (CURVE_SUFFIX, *(CHECKPOINT_SUFFIXES if keep_checkpoint else ()))
    if old.result.evidence is not None and old.result.evidence == new.result.evidence:
        suffixes += (IMAGES_SUFFIX, EVIDENCE_SUFFIX)
    for suffix in suffixes:
        path = companion(folder / old.file, suffix)
        if path.is_file():
            yield suffix, path.read_bytes()


def remove_row(folder: Path, row: Row) -> None:
    """Delete a row and its companion files."""
    path = folder / row.file
    for file in (path, *companions(path)):
        file.unlink(missing_ok=True)


def stored_files(folder: Path) -> set[Path]:
    """The results of a board and their companion files; empty for a folder that does not exist."""
    return {path for path in (folder / RESULTS).glob("*") if path.is_file()}


def companions(result: Path) -> list[Path]:
    """The existing companion files of a result."""
    files = (companion(result, suffix) for suffix in COMPANION_SUFFIXES)
    return [path for path in files if path.is_file()]


def unexpected_files(folder: Path) -> Iterator[Problem]:
    """Files of a board that are neither results, nor their companions, nor generated."""
    allowed = {*GENERATED_FILES, RULES_FILE, RESULTS}
    for path in sorted(folder.iterdir()):
        if path.name not in allowed or path.is_symlink() or path.is_dir() != (path.name == RESULTS):
            yield Problem(path.name, "is not expected in a board's folder")
    results = folder / RESULTS
    for path in sorted(results.iterdir()) if results.is_dir() else []:
        suffix = next((end for end in (*COMPANION_SUFFIXES, ".json") if path.name.endswith(end)), None)
        stem = path.name.removesuffix(suffix or "")
        file = f"{RESULTS}/{printable(path.name, 100)}"
        if suffix is None or path.is_symlink() or not path.is_file():
            yield Problem(file, "is not expected among results")
        elif not FILE_NAME.fullmatch(path.name[:80]) or len(path.name) > 120 or ".." in path.name:
            yield Problem(file, "has an unsafe name: use robust-eval leaderboard add")
        elif suffix != ".json" and not (results / f"{stem}.json").is_file():
            yield Problem(file, "is not stored with a result")


def check_submission(folder: Path, base: Path) -> Iterator[Problem]:
    """Changes that a submission may not make; ``folder`` is the submitted board, ``base`` the current one.

    A submission may add results. It may not change or remove results, change the board's rules, or bring
    verifications. Raises :class:`UserError` if ``base`` is not a folder.
    """
    if not base.is_dir():
        raise UserError(f"{base} is not a folder. Give the board as it was before the submission.")
    current, submitted = _contents(base), _contents(folder)
    for name in sorted(current.keys() | submitted.keys()):
        if name in GENERATED_FILES or current.get(name) == submitted.get(name):
            continue
        if name == RULES_FILE:
            yield Problem(name, "changes the board's rules")
        elif name not in submitted:
            yield Problem(name, "was removed")
        elif name.endswith(verification_record.SUFFIX):
            yield Problem(name, "is a verification, which only maintainers may add")
        elif name in current:
            yield Problem(name, "was changed")
        elif any(
            name.removesuffix(end) + ".json" in current for end in COMPANION_SUFFIXES if name.endswith(end)
        ):
            yield Problem(name, "is stored with a row that is not part of the submission")


def _contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of each stored file, by its name; of files that cannot be read the reason."""
    files = [folder / RULES_FILE, *sorted((folder / RESULTS).glob("*"))]
    return {
        path.relative_to(folder).as_posix(): _digest(path)
        for path in files
        if path.is_file() and not path.is_symlink()
    }


def _digest(path: Path) -> str:
    try:
        return regular_file.sha256(path, "files of a board", strict_json.LARGEST)
    except UserError as error:
        return str(error)
