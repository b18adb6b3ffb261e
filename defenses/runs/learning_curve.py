"""The learning curve: a CSV that is always whole, and TensorBoard."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from defenses.runs.files import write_atomically

Row = Mapping[str, float]
TIMES = ("images_per_second", "seconds")
"""What differs when the same run is made again."""
COLUMNS = (
    "epoch",
    "lr",
    "budget",
    "perturbed",
    "loss",
    "train_clean",
    "train_pgd",
    "val_clean",
    "val_pgd",
    "robust_gap",
    "test_clean",
    "test_pgd",
    *TIMES,
)
"""``epoch`` counts from 1. ``loss`` is the mean over the epoch's updates, at w+v where ``perturbed``
is 1. Accuracies are fractions, measured at w in eval mode, empty where nothing was measured;
``robust_gap`` is train_pgd - val_pgd; the test columns are for comparison with papers alone."""


def csv_text(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([f"{row[name]:.6g}" if name in row else "" for name in COLUMNS])
    return text.getvalue()


def is_written(path: Path, rows: Sequence[Row]) -> bool:
    """Whether the file holds exactly these rows."""
    try:
        return path.read_text(encoding="utf-8") == csv_text(rows)
    except (OSError, UnicodeDecodeError):
        return False


class TensorBoardWriter(Protocol):
    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Scalars under the CSV's column names; a resumed run takes over from ``first``.

    The CSV has the same figures: a disk too full for TensorBoard is no reason to end a run here.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first)

    def add(self, row: Row) -> None:
        with suppress(OSError):
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(row["epoch"]))
            self._writer.flush()

    def close(self) -> None:
        with suppress(OSError):
            self._writer.close()


class NoTensorBoard:
    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    write_atomically(path, csv_text(rows).encode())
