"""Result files as rows of a board: read, ordered, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from robust_eval.errors import UserError
from robust_eval.schema import EvalResult, read_result

RESULTS = "results"


@dataclass(frozen=True)
class Row:
    """One result and where it lies, relative to the board's folder."""

    file: str
    result: EvalResult

    @property
    def name(self) -> str:
        trained = self.result.checkpoint.trained_with or {}
        recipe = trained.get("recipe")
        named = recipe.get("name") if isinstance(recipe, dict) else None
        return str(named or self.result.checkpoint.name)


def read_board(board: Path) -> list[Row]:
    """All results of a board: ``results/*.json``, or ``*.json`` where there is no such folder.

    Raises :class:`UserError` for a folder without results and for any file that is not a result.
    """
    if not board.is_dir():
        raise UserError(f"{board} is not a folder. Give the board's folder, the one that holds {RESULTS}/.")
    folder = board / RESULTS if (board / RESULTS).is_dir() else board
    files = sorted(path for path in folder.glob("*.json"))
    if not files:
        raise UserError(f"{folder} holds no result files (*.json). Copy a run's result.json there first.")
    return [Row(path.relative_to(board).as_posix(), read_result(path)) for path in files]


def ranked(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """(ranked, shown without a rank): by worst case, best first; ties by clean accuracy, then name."""
    can_rank = sorted((row for row in rows if row.result.rankable), key=_order)
    cannot = sorted((row for row in rows if not row.result.rankable), key=_order)
    return can_rank, cannot


def _order(row: Row) -> tuple[float, float, str]:
    columns = row.result.columns
    return (-row.result.worst_case.accuracy, -columns["clean"].accuracy, row.name)
