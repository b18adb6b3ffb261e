"""Put a run on a board, and keep submissions from touching what is not theirs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text, writing
from robust_eval.core.text import printable
from robust_eval.leaderboard import attachments, rules
from robust_eval.leaderboard import board as boards
from robust_eval.leaderboard.row import (
    CHECKPOINT_SUFFIXES,
    CURVE_SUFFIX,
    EVIDENCE_SUFFIX,
    IMAGES_SUFFIX,
    RESULTS,
    SIDECARS,
    Row,
    companion,
    read_board,
    read_row,
)
from robust_eval.leaderboard.rules import Problem
from robust_eval.results import content_digest, verification_record

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,79}")
# Separators that honest names use; everything else has no business in a file name.
_MILD = re.compile(r"[ :@+=,()\[\]#]+")
GENERATED = ("README.md", "index.html")


def file_name(row: Row) -> str:
    """``<name>-<digest>.json``: safe in every file system, the same for the same content.

    The name is the recipe's where the checkpoint records one that can be a file's, else the checkpoint's.
    Raises :class:`UserError` for a checkpoint's name that is hostile or cannot be a file's.
    """
    name = row.result.checkpoint.name
    stem = _stem(name)
    if stem is None:
        raise UserError(
            f"The checkpoint's name {printable(name, 60)!r} cannot be a file name here: rename it with at "
            "most 80 letters, digits, '.', '_' and '-', and evaluate again."
        )
    digest = content_digest(row.result.model_dump(mode="json"))
    return f"{_stem(row.name) or stem}-{digest[:8]}.json"


def _stem(name: str) -> str | None:
    """A name as part of a file's; None for one that cannot be."""
    bare = name.removesuffix(".pt").removesuffix(".pth").removesuffix(".safetensors")
    stem = _MILD.sub("-", bare).strip("-")
    return stem if NAME.fullmatch(stem) and ".." not in stem else None


def add(
    result: Path,
    folder: Path,
    *,
    replace: bool = False,
    checkpoint: Path | None = None,
    evidence: Path | None = None,
) -> Path:
    """File a result, with its verification if one of this content lies beside it.

    The row must keep the board's rules and must not be there already. Raises :class:`UserError` otherwise;
    nothing is written then. ``replace``: a row for the same checkpoint, or for the same recipe and seed
    trained again, gives way; what lies beside it and is true of the new row too stays. ``checkpoint`` and
    ``evidence``: files to keep beside the row. The board's folder may be new, but not its parent.
    """
    row = read_row(result, result.name)
    name = file_name(row)
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder.parent} is not a folder. Make it first, or name a board that exists.")
    board = boards.load(folder) if folder.exists() else boards.described(folder)
    home = folder / RESULTS
    if home.is_symlink():
        raise UserError(f"{home} is a link out of the board. Put the folder itself there.")
    there = read_board(folder) if home.is_dir() and any(home.glob("*.json")) else []
    gives_way = rules.same_network if replace else rules.same_claim
    before = [other for other in there if gives_way(other.result, row.result)]
    if before and not replace:
        raise UserError(
            f"{folder} already has a row for this checkpoint: {before[0].file}. Add --replace to replace it."
        )
    wrong = list(rules.of_row(board, row))
    if wrong:
        raise UserError(f"{result} does not belong on {folder.resolve().name}: it {'; it '.join(wrong)}.")
    given = [] if checkpoint is None else [attachments.checkpoint_of(row.result, checkpoint)]
    given += [] if evidence is None else [attachments.evidence_of(row.result, evidence)]
    files = [file for other in before for file in _still_true(folder, other, row, checkpoint is None)] + given
    with writing(home):
        home.mkdir(parents=True, exist_ok=True)
    for other in before:
        remove(folder, other)
    path = home / name
    write_text(path, row.result.to_json())
    if row.verification is not None:
        about = content_digest(strict_json.read(path))
        if row.verification.result == about:
            verification_record.write(verification_record.path_beside(path), row.verification)
    attachments.keep(path, files)
    return path


def _still_true(folder: Path, old: Row, new: Row, weights: bool) -> Iterator[tuple[str, bytes]]:
    """(suffix, content) of what lies beside a row and belongs to the one in its place as well.

    Its checkpoint only where ``weights``.
    """
    suffixes: tuple[str, ...] = ()
    if old.result.checkpoint.sha256 == new.result.checkpoint.sha256:
        suffixes += (CURVE_SUFFIX, *(CHECKPOINT_SUFFIXES if weights else ()))
    if old.result.evidence is not None and old.result.evidence == new.result.evidence:
        suffixes += (IMAGES_SUFFIX, EVIDENCE_SUFFIX)
    for suffix in suffixes:
        path = companion(folder / old.file, suffix)
        if path.is_file():
            yield suffix, path.read_bytes()


def remove(folder: Path, row: Row) -> None:
    """A row and what lies beside it."""
    path = folder / row.file
    for file in (path, *beside(path)):
        file.unlink(missing_ok=True)


def filed(folder: Path) -> set[Path]:
    """The results of a board and all that lies beside them; none where the folder is new."""
    return {path for path in (folder / RESULTS).glob("*") if path.is_file()}


def beside(result: Path) -> list[Path]:
    """What lies beside a filed result."""
    files = (companion(result, suffix) for suffix in SIDECARS)
    return [path for path in files if path.is_file()]


def stray_files(folder: Path) -> Iterator[Problem]:
    """Files of a board that are neither results, nor beside one, nor generated."""
    allowed = {*GENERATED, boards.FILE, RESULTS}
    for path in sorted(folder.iterdir()):
        if path.name not in allowed or path.is_symlink() or path.is_dir() != (path.name == RESULTS):
            yield Problem(path.name, "does not belong in a board's folder")
    home = folder / RESULTS
    for path in sorted(home.iterdir()) if home.is_dir() else []:
        suffix = next((suffix for suffix in (*SIDECARS, ".json") if path.name.endswith(suffix)), None)
        stem = path.name.removesuffix(suffix or "")
        file = f"{RESULTS}/{printable(path.name, 100)}"
        if suffix is None or path.is_symlink() or not path.is_file():
            yield Problem(file, "does not belong among results")
        elif not NAME.fullmatch(path.name[:80]) or len(path.name) > 120 or ".." in path.name:
            yield Problem(file, "has a name that is not safe: use robust-eval leaderboard add")
        elif suffix != ".json" and not (home / f"{stem}.json").is_file():
            yield Problem(file, "lies beside no result")


def submission(folder: Path, base: Path) -> Iterator[Problem]:
    """What somebody else may not do to a board: ``folder`` is theirs, ``base`` the board as it is.

    New results may come in. Results that are there stay as they are, and neither the board's rules nor
    verifications are taken from a submission. Raises :class:`UserError` where ``base`` is no folder.
    """
    if not base.is_dir():
        raise UserError(f"{base} is not a folder. Give the board as it was before the submission.")
    ours, theirs = _contents(base), _contents(folder)
    for name in sorted(ours.keys() | theirs.keys()):
        if name in GENERATED or ours.get(name) == theirs.get(name):
            continue
        if name == boards.FILE:
            yield Problem(name, "changes the board's rules")
        elif name not in theirs:
            yield Problem(name, "was there and is gone")
        elif name.endswith(verification_record.SUFFIX):
            yield Problem(name, "is a verification: maintainers make those, submissions do not")
        elif name in ours:
            yield Problem(name, "was there and is changed")
        elif any(name.removesuffix(suffix) + ".json" in ours for suffix in SIDECARS if name.endswith(suffix)):
            yield Problem(name, "lies beside a row that was there before")


def _contents(folder: Path) -> dict[str, bytes]:
    files = [folder / boards.FILE, *sorted((folder / RESULTS).glob("*"))]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.is_file() and not path.is_symlink()
    }
