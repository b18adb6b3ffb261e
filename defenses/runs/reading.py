"""Read the record and the learning curve of training runs, for figures and tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from defenses.runs.files import CURVE, RECORD
from defenses.runs.learning_curve import COLUMNS
from robust_eval.core import strict_csv, strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.text import parse_names

Row = Mapping[str, float]
ACCURACIES = tuple(name for name in COLUMNS if name.endswith(("_clean", "_pgd")))


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with a learning curve; the run may still be in progress."""

    folder: Path
    recipe: Mapping[str, Any]
    """The resolved recipe as plain values."""
    dataset: str
    seed: int
    rows: tuple[Row, ...]
    """Rows of the learning curve; values that were not measured are missing."""
    terms: Mapping[str, object] = field(default_factory=dict)
    """Precision and fingerprints of the images: equal for all seeds of a table cell."""

    @property
    def name(self) -> str:
        """Name of the run in legends."""
        return self.folder.name or str(self.folder)

    @property
    def method(self) -> str:
        return str(self.recipe["name"])

    @property
    def norm(self) -> str:
        return str(self.recipe["threat"]["norm"])

    @property
    def test_measured(self) -> bool:
        return any("test_pgd" in row for row in self.rows)

    def measured(self, name: str) -> list[tuple[float, float]]:
        """(epoch, value) of a column, for the epochs in which it was measured."""
        return [(row["epoch"], row[name]) for row in self.rows if name in row]

    @property
    def best(self) -> Row:
        """The row of ``best.pt``: the first epoch with the highest held-out PGD accuracy.

        Clean accuracy if training uses no attack; the last epoch if no images were held out.
        """
        score = "val_pgd" if self.recipe["inner"]["steps"] else "val_clean"
        held_out = [row for row in self.rows if score in row]
        return max(held_out, key=lambda row: row[score]) if held_out else self.last

    @property
    def last(self) -> Row:
        """The last row with a measurement, or the last row if there is none."""
        seen = [row for row in self.rows if any(name.endswith("_clean") for name in row)]
        return (seen or list(self.rows))[-1]


def read_run(folder: Path) -> FinishedRun:
    """Read a run folder. Raises :class:`UserError` if a file is missing or damaged."""
    path = folder / RECORD
    if not path.is_file():
        raise UserError(
            f"{folder} is not a run folder of defenses train: it contains no run.json. Name a run folder."
        )
    record = strict_json.read(path)
    try:
        recipe, dataset, seed = record["recipe"], str(record["dataset"]), int(record["seed"])
        recipe["name"], recipe["threat"]["norm"], recipe["inner"]["steps"], recipe["training"]["epochs"]
        images = terms(record)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not the record of a training run ({_missing(error)}).") from None
    return FinishedRun(folder, recipe, dataset, seed, _read_curve(folder), images)


def terms(record: Mapping[str, Any]) -> dict[str, object]:
    """Precision and image fingerprints from a run's record or a checkpoint's provenance."""
    data = record.get("data") or {}
    images = {f"{name} images": data.get(name) for name in ("train", "validation")}
    return {"precision": record.get("precision"), **images}


def _missing(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def find_runs(paths: Sequence[Path]) -> list[FinishedRun]:
    """Read the named run folders, and all run folders below the other named folders; each run once."""
    return [read_run(folder) for folder in _run_folders(paths)]


def labels(runs: Sequence[FinishedRun], names: str | None = None) -> list[str]:
    """A distinct name for each run: from ``names``, separated by commas, else the name of its folder."""
    if names is not None:
        return parse_names(names, len(runs))
    own = [run.name for run in runs]
    return own if len(set(own)) == len(own) else [str(run.folder) for run in runs]


def _run_folders(paths: Iterable[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"There is no folder {path}: name run folders, or a folder that contains run folders."
            )
        below = sorted(file.parent for file in path.rglob(RECORD))
        for folder in [path] if (path / RECORD).is_file() or not below else below:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _read_curve(folder: Path) -> tuple[Row, ...]:
    path = folder / CURVE
    table = strict_csv.read(path)[1] if path.exists() else []
    if not table:
        raise UserError(
            f"{folder} has no learning curve yet (curve.csv): let it train for an epoch, or leave it out."
        )
    try:
        rows = [{name: float(text) for name in COLUMNS if (text := row.get(name))} for row in table]
        [row["epoch"] for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a learning curve of defenses train ({error}).") from None
    for row in rows:
        for name in ACCURACIES:
            if not 0 <= row.get(name, 0) <= 1:  # also true for NaN
                raise UserError(
                    f"{path} has {name} = {row[name]:g} in epoch {row['epoch']:g}, but accuracies are "
                    "fractions from 0 to 1: repeat the run, or leave it out."
                )
    return tuple(rows)
