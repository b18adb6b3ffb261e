"""Add a row to a board, and check which files a submission may change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from robust_eval.core import regular_file, strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.files import is_temporary
from robust_eval.core.folders import LOCK_FILE, STAGED, change_files
from robust_eval.core.text import printable
from robust_eval.leaderboard import attachments, page_extras, rules
from robust_eval.leaderboard.board import RULES_FILE, Board, load_board, lock_board
from robust_eval.leaderboard.companions import companions, still_valid
from robust_eval.leaderboard.page_extras import Pictures
from robust_eval.leaderboard.row import (
    CHECKPOINT_SUFFIXES,
    COMPANION_SUFFIXES,
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


def no_log(_text: str) -> None:
    """A log that discards everything."""


def add_row(
    result: Path,
    folder: Path,
    *,
    replace: bool = False,
    checkpoint: Path | None = None,
    evidence: Path | None = None,
    curve: Path | None = None,
    pictures: Pictures | None = None,
    log: Callable[[str], None] = no_log,
) -> Path:
    """Add a result to a board, with its verification if one for this content is stored beside it.

    The row and its companion files appear together, and what they replace goes with them, or nothing changes.
    The board is locked meanwhile; its folder is created if its parent exists.

    Args:
        result: a result file.
        folder: the board.
        replace: replace the row for the same checkpoint, or for a repeated training with the same recipe and
            seed; its companion files that also apply to the new row are kept.
        checkpoint: file to attach to the row; likewise ``evidence``.
        curve: learning curve to show on the page, beside the row's checkpoint; likewise ``pictures``.
        log: receives a line for each file that is added or removed.

    Returns the path of the new row. Raises :class:`UserError`, without writing anything, if the row breaks a
    rule or is already on the board, or if a file is not that of the row.
    """
    row = read_row(result, result.name)
    name = file_name(row)
    board = _open_board(folder)
    broken_rules = list(rules.check_row(board, row))
    if broken_rules:
        reasons = "; it ".join(broken_rules)
        raise UserError(f"{result} does not belong on {folder.resolve().name}: it {reasons}.")
    given = page_extras.extra_files(row.result, curve, pictures)
    if checkpoint is not None:
        given |= [attachments.read_checkpoint(row.result, checkpoint)]
    if evidence is not None:
        given |= [attachments.read_evidence(row.result, evidence)]
    if not folder.exists():
        kind = "which has no rules and accepts any row" if board.rules is None else board.title
        log(f"New board: {folder}, {kind}.")
    with lock_board(folder):
        replaced = _replaced(folder, row, replace)
        files = _companion_files(folder, replaced, row, given)
        path = folder / RESULTS / name
        # The result last: until then the row does not exist.
        added = {companion(path, suffix): content for suffix, content in files.items()}
        added[path] = row.result.to_json().encode()
        removed = [file for old in replaced for file in _files(folder / old.file) if file not in added]
        change_files(
            folder,
            {file.relative_to(folder).as_posix(): content for file, content in added.items()},
            [file.relative_to(folder).as_posix() for file in removed],
        )
    log(f"Added: {path}")
    for file in list(added)[:-1]:
        log(f"Stored with it: {file}")
    for file in sorted(removed):
        log(f"Removed with the replaced row: {file}")
    return path


def _open_board(folder: Path) -> Board:
    """The board of a folder that may be new. Raises :class:`UserError` if it cannot be a board."""
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder.parent} is not a folder. Create it first, or give an existing board.")
    board = load_board(folder, must_exist=folder.exists())
    results = folder / RESULTS
    if results.is_symlink():
        raise UserError(f"{results} is a symbolic link out of the board. Replace it by a folder.")
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = [name for name in names if name not in (RULES_FILE, *GENERATED_FILES, LOCK_FILE, STAGED)]
    if others and RESULTS not in names and RULES_FILE not in names:
        raise UserError(
            f"{folder} is not a board but contains other files ({others[0]}). Give the board's folder, which "
            "contains results/, or a new one."
        )
    return board


def _replaced(folder: Path, row: Row, replace: bool) -> list[Row]:
    """The rows of a board that give way to a new row. Raises :class:`UserError` unless ``replace``."""
    rows = read_rows(folder) if any((folder / RESULTS).glob("*.json")) else []
    same = rules.same_training if replace else rules.same_checkpoint
    replaced = [other for other in rows if same(other.result, row.result)]
    if replaced and not replace:
        raise UserError(
            f"{folder} already has a row for this checkpoint: {replaced[0].file}. "
            "Add --replace to replace it."
        )
    return replaced


def _companion_files(
    folder: Path, replaced: Sequence[Row], new: Row, given: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Suffix to content of the companion files of a new row: those given, and those still valid."""
    files = {suffix: content for old in replaced for suffix, content in still_valid(folder, old, new)}
    if any(suffix in CHECKPOINT_SUFFIXES for suffix in given):
        files = {suffix: content for suffix, content in files.items() if suffix not in CHECKPOINT_SUFFIXES}
    files |= given
    record = new.verification
    if record is not None and record.result == content_digest(json.loads(new.result.to_json())):
        files[verification_record.SUFFIX] = verification_record.to_json(record).encode()
    return files


def _files(result: Path) -> list[Path]:
    """A result and its companion files, the result first: without it the row no longer exists."""
    return [result, *companions(result)]


def unexpected_files(folder: Path, *, untrusted: bool = False) -> Iterator[Problem]:
    """Files of a board that are neither results, nor their companions, nor generated.

    ``untrusted``: the board is a submission, in which no command of this machine is at work.
    """
    allowed = {*GENERATED_FILES, RULES_FILE, RESULTS, LOCK_FILE}
    for path in sorted(folder.iterdir()):
        as_expected = path.is_dir() if path.name == RESULTS else path.is_file()
        if path.name == STAGED:
            yield Problem(STAGED, "is a change that was interrupted: run leaderboard check without --against")
        elif path.name not in allowed or path.is_symlink() or not as_expected:
            yield Problem(path.name, "is not expected in a board's folder")
    results = folder / RESULTS
    for path in sorted(results.iterdir()) if results.is_dir() else []:
        suffix = next((end for end in (*COMPANION_SUFFIXES, ".json") if path.name.endswith(end)), None)
        stem = path.name.removesuffix(suffix or "")
        file = f"{RESULTS}/{printable(path.name, 100)}"
        if is_temporary(path.name) and not untrusted:
            continue  # of another process, otherwise it would have been removed
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
