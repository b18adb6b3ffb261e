"""Write the learning curve: a CSV file, replaced atomically after each epoch, and TensorBoard files."""

from __future__ import annotations

import csv
import io
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from robust_eval.core import extras, regular_file, strict_csv
from robust_eval.core.errors import UserError
from robust_eval.core.files import atomic, create_folder, open_new

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


def check_tensorboard() -> None:
    """Raise :class:`UserError` if TensorBoard is not installed."""
    extras.check("train", "tensorboard", "Training without --no-tensorboard")


class TensorBoardWriter(Protocol):
    """Receives the rows of the learning curve."""

    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Scalars named like the columns of the CSV; a resumed run overwrites from epoch ``first``.

    Write errors are ignored: the CSV contains the same values. Records are written at once, because the
    thread of torch's ``SummaryWriter`` prints a traceback if the disk is full.
    """

    def __init__(self, folder: Path, first: int) -> None:
        """Raises :class:`UserError` if TensorBoard is not installed."""
        check_tensorboard()
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._records: Any = None
        with suppress(OSError):
            create_folder(folder)
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
            self._records = RecordWriter(open_new(folder / name))
        self._write(step=first, file_version="brain.Event:2")
        self._write(step=first, session_log=SessionLog(status=SessionLog.START))

    def _write(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        if self._records is not None:
            with suppress(OSError):
                self._records.write(Event(wall_time=time.time(), **event).SerializeToString())
                self._records.flush()

    def add(self, row: Row) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value) for name, value in row.items() if name != "epoch"
        ]
        self._write(step=int(row["epoch"]), summary=Summary(value=values))

    def close(self) -> None:
        if self._records is not None:
            with suppress(OSError):
                self._records.close()


class NoTensorBoard:
    """Writes nothing (``--no-tensorboard``)."""

    def add(self, row: Row) -> None: ...

    def close(self) -> None: ...


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with atomic(path) as file:
        file.write(csv_text(rows).encode())
