"""Read the result files of a board as rows, with the files stored beside each result."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.evaluation.planning.recorded_suite import RecordedSuite, identify
from robust_eval.results import (
    Count,
    EvalResult,
    FlagRecord,
    checkpoint_claims,
    content_digest,
    flags,
    parse_result,
    verification_record,
)
from robust_eval.results.consistency import contradictions
from robust_eval.results.verification_record import Verification

RESULTS = "results"
# Files stored beside ``<stem>.json``: ``<stem>`` and one of these suffixes.
IMAGES_SUFFIX = ".images.json"
CURVE_SUFFIX = ".curve.csv"
EVIDENCE_SUFFIX = ".evidence.safetensors"
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")
# The evidence comes first, because its name also ends in a checkpoint's suffix.
ATTACHMENT_SUFFIXES = (EVIDENCE_SUFFIX, *CHECKPOINT_SUFFIXES)
COMPANION_SUFFIXES = (verification_record.SUFFIX, IMAGES_SUFFIX, CURVE_SUFFIX, *ATTACHMENT_SUFFIXES)

WORST_CASE = "worst-case"


def companion(result: Path, suffix: str) -> Path:
    """Path of the file with this suffix beside a result; it need not exist."""
    return result.with_name(result.stem + suffix)


@dataclass(frozen=True)
class Row:
    """A result on a leaderboard; ``file`` is its path relative to the board's folder."""

    file: str
    result: EvalResult
    verification: Verification | None = None
    """The stored verification, if it was made for exactly this content."""
    verification_outdated: bool = False
    """Whether the stored verification was made for different content."""
    attachments: tuple[str, ...] = ()
    """Suffixes of the attachments: checkpoint and evidence stored beside the result."""

    @cached_property
    def suite(self) -> RecordedSuite:
        """The suite of the row: what it computed, and not only what it names."""
        return identify(self.result)

    @property
    def name(self) -> str:
        """The recipe's name as recorded in the checkpoint, else the checkpoint's file name."""
        recipe = self._trained("recipe")
        return str(recipe.get("name") or self.result.checkpoint.name)

    @property
    def training(self) -> dict[str, Any]:
        """Seed, device and images of the training, as claimed by the checkpoint; empty if not recorded."""
        return self._trained("provenance")

    @property
    def seed(self) -> object:
        """Seed of the training, as claimed by the checkpoint; None if not recorded."""
        return self.training.get("seed")

    @property
    def label(self) -> str:
        """The name that tables show, with the seed unless it is 0 or unknown."""
        return f"{self.name} (seed {self.seed})" if self.seed else self.name

    @property
    def selected(self) -> checkpoint_claims.Selected:
        """How the checkpoint was selected among the training epochs, according to its own claims."""
        checkpoint = self.result.checkpoint
        return checkpoint_claims.selected(checkpoint.trained_with, checkpoint.name)

    @cached_property
    def flags(self) -> tuple[FlagRecord, ...]:
        """The flags of the result, as the present rules raise them."""
        return flags.current(self.result)

    @cached_property
    def contradicts_itself(self) -> bool:
        """Whether the numbers of the result cannot belong together."""
        return bool(contradictions(self.result))

    @cached_property
    def rankable(self) -> bool:
        """Whether the row may have a rank: complete, not refuted, and without a blocking flag."""
        refuted = self.contradicts_itself or (self.verification is not None and not self.verification.passed)
        return self.result.rankable and not refuted and not flags.blocking(self.result)

    @property
    def standing(self) -> str:
        """How far the row was checked.

        ``self-reported``, ``contradicts itself``, ``failed verification``, ``verified``, or
        ``verified, audited`` and how much.
        """
        if self.contradicts_itself:
            return "contradicts itself"
        if self.verification is None:
            return "self-reported"
        if not self.verification.passed:
            return "failed verification"
        audit = self.verification.audit
        if audit is None:
            return "verified"
        columns = [name for name, column in self.result.columns.items() if column.attacks]
        if set(audit.columns) != set(columns):
            return f"verified, audited in {len(audit.columns)} of {len(columns)} columns"
        return f"verified, audited {audit.n:,} of {audit.of:,}"

    @property
    def attachment_files(self) -> tuple[tuple[str, str], ...]:
        """(``checkpoint`` or ``evidence``, path relative to the board) of each attachment."""
        stem = self.file.removesuffix(".json")
        return tuple(
            ("evidence" if suffix == EVIDENCE_SUFFIX else "checkpoint", stem + suffix)
            for suffix in self.attachments
        )

    def count(self, column: str) -> Count | None:
        """Robust count of a column, or of the worst case; None if the row lacks the column."""
        return self.result.worst_case if column == WORST_CASE else self.result.columns.get(column)

    def _trained(self, key: str) -> dict[str, Any]:
        value = (self.result.checkpoint.trained_with or {}).get(key)
        return value if isinstance(value, dict) else {}


def result_files(board: Path, *, skip_links: bool = False) -> list[Path]:
    """The results of a board: ``results/*.json``, or ``*.json`` if there is no such folder.

    Symbolic links, which could point to files outside the board, are left out if ``skip_links``. Raises
    :class:`UserError` for a folder without results, and for links otherwise.
    """
    if not board.is_dir():
        raise UserError(f"{board} is not a folder. Give the board's folder, which contains {RESULTS}/.")
    folder = board / RESULTS if (board / RESULTS).is_dir() else board
    files = sorted(path for path in folder.glob("*.json") if not path.name.endswith(COMPANION_SUFFIXES))
    for path in (folder, *sorted(folder.iterdir())):
        if path.is_symlink() and not (skip_links and path != folder):
            raise UserError(f"{path} is a symbolic link out of the board. Copy the file itself there.")
    files = [path for path in files if not path.is_symlink()]
    if not files:
        raise UserError(
            f"{folder} contains no result files (*.json). Add a run with robust-eval leaderboard add."
        )
    return files


def read_row(path: Path, file: str) -> Row:
    """Read a result and its verification. Raises :class:`UserError` for invalid files."""
    value = strict_json.read(path)
    result = parse_result(value, path)
    attachments = tuple(suffix for suffix in ATTACHMENT_SUFFIXES if companion(path, suffix).is_file())
    record_file = verification_record.path_beside(path)
    if not record_file.is_file():
        return Row(file, result, attachments=attachments)
    record = verification_record.read(record_file)
    current = record.result == content_digest(value)
    return Row(
        file, result, record if current else None, verification_outdated=not current, attachments=attachments
    )


def read_rows(board: Path) -> list[Row]:
    """Read all rows of a board. Raises :class:`UserError` for the first invalid file."""
    return [read_row(path, path.relative_to(board).as_posix()) for path in result_files(board)]


def order_rows(rows: list[Row], by: str = WORST_CASE) -> tuple[list[Row], list[Row]]:
    """(rankable rows, other rows), each sorted by a column, best first; ties by clean accuracy, then name."""
    rankable = [row for row in rows if row.rankable and row.count(by) is not None]
    others = [row for row in rows if row not in rankable]
    return sorted(rankable, key=lambda row: _order(row, by)), sorted(others, key=lambda row: _order(row, by))


def _order(row: Row, by: str) -> tuple[float, float, str]:
    count, clean = row.count(by), row.count("clean")
    return -(count.accuracy if count else 0.0), -(clean.accuracy if clean else 0.0), row.name
