"""Write the learning curve: a CSV file, replaced atomically after each epoch, and TensorBoard files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from robust_eval.core import regular_file, strict_csv
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic

Row = Mapping[str, float]
TIMES = ("images_per_second", "seconds")
"""Columns that differ between repetitions of the same run."""
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
"""``epoch`` counts from 1. ``budget`` is the fraction of epsilon. ``loss`` is the mean over the epoch's
updates, at w+v if ``perturbed`` is 1. Accuracies are fractions, measured at w in eval mode, and empty if not
measured; ``robust_gap`` is train_pgd - val_pgd; the test columns are only for comparison with papers."""


def csv_text(rows: Sequence[Row]) -> str:
    """The learning curve as CSV, with 6 significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([f"{row[name]:.6g}" if name in row else "" for name in COLUMNS])
    return text.getvalue()


def is_written(path: Path, rows: Sequence[Row]) -> bool:
    """Whether the file contains exactly these rows."""
    try:
        return regular_file.read_text(path, "learning curves", strict_csv.LARGEST) == csv_text(rows)
    except UserError:
        return False


class TensorBoardWriter(Protocol):
    """Receives the rows of the learning curve."""

    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Scalars named like the columns of the CSV; a resumed run overwrites from epoch ``first``.

    Write errors are ignored: the CSV contains the same values.
    """

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: SummaryWriter | None = None
        with suppress(OSError):
            self._writer = SummaryWriter(str(folder), purge_step=first)

    def add(self, row: Row) -> None:
        if self._writer is None:
            return
        with suppress(OSError):
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(row["epoch"]))
            self._writer.flush()

    def close(self) -> None:
        if self._writer is None:
            return
        with suppress(OSError):
            self._writer.close()


class NoTensorBoard:
    """Writes nothing (``--no-tensorboard``)."""

    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with atomic(path) as file:
        file.write(csv_text(rows).encode())
