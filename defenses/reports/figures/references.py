"""Other people's learning curves, drawn dashed behind ours: one CSV per run.

The columns are those of the AWP authors' log lines: ``epoch`` (from 0), ``test_rob_acc``, ``test_nat_acc``
and, where it can be used, ``train_rob_acc``; accuracies are fractions.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robust_eval.core.errors import UserError

NEEDED = ("epoch", "test_rob_acc", "test_nat_acc")
TRAIN = "train_rob_acc"


@dataclass(frozen=True)
class Reference:
    name: str
    epochs: tuple[float, ...]
    """From 1, as ours."""
    natural: tuple[float, ...]
    robust: tuple[float, ...]
    train_robust: tuple[float, ...] | None
    """None for runs with AWP: their logs measure training images at w+v, from which no gap can be read."""


def read(paths: Sequence[Path]) -> list[Reference]:
    """The logs named, and those in a folder; a folder's other files are passed over."""
    return [reference for path in paths for reference in _below(path)]


def _below(path: Path) -> list[Reference]:
    if not path.is_dir():
        found = _read(path)
        if found is None:
            raise UserError(
                f"{path} is no log of a training run: it needs the columns {', '.join(NEEDED)}. Name another."
            )
        return [found]
    each = [found for file in sorted(path.glob("*.csv")) if (found := _read(file)) is not None]
    if not each:
        raise UserError(
            f"{path} holds no log of a training run: a .csv with the columns {', '.join(NEEDED)}. "
            "Name another folder."
        )
    return each


def _read(path: Path) -> Reference | None:
    """None for a file with other columns."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if not set(NEEDED) <= set(reader.fieldnames or ()):
                return None
            rows = list(reader)
        columns = {
            name: tuple(float(row[name]) for row in rows)
            for name in (*NEEDED, TRAIN)
            if name in (reader.fieldnames or ())
        }
    except FileNotFoundError:
        raise UserError(f"There is no {path}: name a log, or a folder that holds some.") from None
    except (OSError, UnicodeDecodeError, ValueError, TypeError, csv.Error) as error:
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
            what = "an epoch counts from 0" if name == "epoch" else "accuracies are fractions from 0 to 1"
            raise UserError(f"{path} has {name} = {bad:g}, but {what}: mend the log or leave it out.")
