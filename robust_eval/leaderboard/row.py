"""Result files as rows of a board: read, with what lies beside them, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.results import Count, EvalResult, checkpoint_claims, content_digest, parse_result
from robust_eval.results import verification_record as verification
from robust_eval.results.verification_record import Verification

RESULTS = "results"
# What lies beside a result under its stem and is no result itself.
IMAGES_SUFFIX = ".images.json"
CURVE_SUFFIX = ".curve.csv"
EVIDENCE_SUFFIX = ".evidence.safetensors"
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".safetensors")
# The evidence first: its name ends like a checkpoint's.
KEPT = (EVIDENCE_SUFFIX, *CHECKPOINT_SUFFIXES)
SIDECARS = (verification.SUFFIX, IMAGES_SUFFIX, CURVE_SUFFIX, *KEPT)

WORST_CASE = "worst-case"


def companion(result: Path, suffix: str) -> Path:
    """The file with this suffix beside a result, whether it is there or not."""
    return result.with_name(result.stem + suffix)


@dataclass(frozen=True)
class Row:
    """One result and where it lies, relative to the board's folder."""

    file: str
    result: EvalResult
    verification: Verification | None = None
    """Beside it and about exactly this content; a lapsed one counts as none."""
    lapsed: bool = False
    """A verification lies beside it, but of another content."""
    kept: tuple[str, ...] = ()
    """Suffixes of the checkpoint and the evidence, where they lie beside it."""

    @property
    def name(self) -> str:
        recipe = self._trained("recipe")
        return str(recipe.get("name") or self.result.checkpoint.name)

    @property
    def training(self) -> dict[str, Any]:
        """Seed, device and images of it, by the checkpoint's own record; empty where it has none."""
        return self._trained("provenance")

    @property
    def seed(self) -> object:
        """Of the training, by the checkpoint's own record; None where it has none."""
        return self.training.get("seed")

    @property
    def label(self) -> str:
        """The name as readers see it: with its seed, where that is not the usual 0."""
        return f"{self.name} (seed {self.seed})" if self.seed else self.name

    @property
    def selected(self) -> checkpoint_claims.Selected:
        """How the checkpoint was chosen among its training's epochs, by its own record."""
        checkpoint = self.result.checkpoint
        return checkpoint_claims.selected(checkpoint.trained_with, checkpoint.name)

    @property
    def standing(self) -> str:
        """``verified``, ``verified, audited``, ``failed verification`` or ``self-reported``."""
        if self.verification is None:
            return "self-reported"
        if not self.verification.passed:
            return "failed verification"
        return "verified" if self.verification.audit is None else "verified, audited"

    @property
    def files(self) -> tuple[tuple[str, str], ...]:
        """(what, file) of the checkpoint and the evidence, where the board keeps them."""
        stem = self.file.removesuffix(".json")
        return tuple(
            ("evidence" if suffix == EVIDENCE_SUFFIX else "checkpoint", stem + suffix) for suffix in self.kept
        )

    def count(self, column: str) -> Count | None:
        """A column's count, or the worst case's; None where the row lacks the column."""
        return self.result.worst_case if column == WORST_CASE else self.result.columns.get(column)

    def _trained(self, key: str) -> dict[str, Any]:
        value = (self.result.checkpoint.trained_with or {}).get(key)
        return value if isinstance(value, dict) else {}


def result_files(board: Path) -> list[Path]:
    """``results/*.json``, or ``*.json`` where there is no such folder; what lies beside a result left out.

    Raises :class:`UserError` for a folder without results and for a link, which may lead anywhere.
    """
    if not board.is_dir():
        raise UserError(f"{board} is not a folder. Give the board's folder, the one that holds {RESULTS}/.")
    folder = board / RESULTS if (board / RESULTS).is_dir() else board
    files = sorted(path for path in folder.glob("*.json") if not path.name.endswith(SIDECARS))
    for path in (folder, *sorted(folder.iterdir())):
        if path.is_symlink():
            raise UserError(f"{path} is a link out of the board. Put the file itself there.")
    if not files:
        raise UserError(f"{folder} holds no result files (*.json). Copy a run's result.json there first.")
    return files


def read_row(path: Path, file: str) -> Row:
    """One result with its verification. Raises :class:`UserError` for files that are neither."""
    value = strict_json.read(path)
    result = parse_result(value, path)
    kept = tuple(suffix for suffix in KEPT if companion(path, suffix).is_file())
    beside = verification.path_beside(path)
    if not beside.is_file():
        return Row(file, result, kept=kept)
    found = verification.read(beside)
    about = found.result == content_digest(value)
    return Row(file, result, found if about else None, lapsed=not about, kept=kept)


def read_board(board: Path) -> list[Row]:
    """All results of a board. Raises :class:`UserError` for the first file that is not a result."""
    return [read_row(path, path.relative_to(board).as_posix()) for path in result_files(board)]


def ranked(rows: list[Row], by: str = WORST_CASE) -> tuple[list[Row], list[Row]]:
    """(ranked, shown without a rank): by one column, best first; ties by clean accuracy, then name."""
    able = [row for row in rows if row.result.rankable and row.count(by) is not None]
    unable = [row for row in rows if row not in able]
    return sorted(able, key=lambda row: _order(row, by)), sorted(unable, key=lambda row: _order(row, by))


def _order(row: Row, by: str) -> tuple[float, float, str]:
    count, clean = row.count(by), row.count("clean")
    return -(count.accuracy if count else 0.0), -(clean.accuracy if clean else 0.0), row.name
