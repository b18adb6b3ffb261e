"""Read learning curves of other code as reference lines: one CSV file per run.

The columns are named as in the logs of the AWP authors: ``epoch`` (from 0), ``test_rob_acc``,
``test_nat_acc`` and optionally ``train_rob_acc``; accuracies are fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robust_eval.core import strict_csv
from robust_eval.core.errors import UserError

NEEDED = ("epoch", "test_rob_acc", "test_nat_acc")
TRAIN = "train_rob_acc"


@dataclass(frozen=True)
class Reference:
    """The learning curve of one reference run; accuracies are fractions."""

    name: str
    epochs: tuple[float, ...]
    """Counted from 1, as in ``curve.csv``."""
    natural: tuple[float, ...]
    robust: tuple[float, ...]
    train_robust: tuple[float, ...] | None
    """None for runs with AWP: their logs measure training accuracy at w+v, which gives no gap at w."""


def read(paths: Sequence[Path]) -> list[Reference]:
    """Read the named logs and all logs in the named folders; other files in a folder are skipped.

    Raises :class:`UserError` for a missing or unreadable log.
    """
    return [reference for path in paths for reference in _below(path)]


def _below(path: Path) -> list[Reference]:
    if not path.is_dir():
        found = _read(path)
        if found is None:
            raise UserError(
                f"{path} is not a log of a training run: it needs the columns {', '.join(NEEDED)}."
            )
        return [found]
    each = [found for file in sorted(path.glob("*.csv")) if (found := _read(file)) is not None]
    if not each:
        raise UserError(
            f"{path} contains no log of a training run (a .csv file with the columns {', '.join(NEEDED)}): "
            "name another folder."
        )
    return each


def _read(path: Path) -> Reference | None:
    """Read one log; return None if the file lacks the columns of a training log."""
    if not path.exists():
        raise UserError(f"There is no {path}: name a log, or a folder that contains logs.")
    names, rows = strict_csv.read(path)
    if not set(NEEDED) <= set(names):
        return None
    try:
        columns = {
            name: tuple(float(row[name] or "nothing") for row in rows)
            for name in (*NEEDED, TRAIN)
            if name in names
        }
    except ValueError as error:
        raise UserError(f"{path} cannot be read as a log of a training run ({error}).") from None
    if not rows:
        return None
    _check(path, columns)
    perturbed = "awp" in path.stem.lower().replace("-", "_").split("_")
    return Reference(
        path.stem,
        tuple(epoch + 1 for epoch in columns["epoch"]),
        columns["test_nat_acc"],
        columns["test_rob_acc"],
        None if perturbed else columns.get(TRAIN),
    )


def _check(path: Path, columns: Mapping[str, Sequence[float]]) -> None:
    for name, values in columns.items():
        highest = math.inf if name == "epoch" else 1.0
        bad = next((value for value in values if not (0 <= value <= highest and math.isfinite(value))), None)
        if bad is not None:
            what = "epochs count from 0" if name == "epoch" else "accuracies are fractions from 0 to 1"
            raise UserError(f"{path} has {name} = {bad:g}, but {what}: correct the log or leave it out.")
