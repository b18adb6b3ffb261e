"""Read untrusted tables (CSV): limited size, number of rows and length of cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from robust_eval.core import regular_file
from robust_eval.core.errors import UserError

LARGEST = 16 * 2**20
"""Largest size of a file in bytes."""
MOST_ROWS = 100_000
_MOST_COLUMNS = 1000

Rows = Sequence[Mapping[str | None, str | None]]


def read(path: Path, most_rows: int = MOST_ROWS) -> tuple[tuple[str, ...], Rows]:
    """(column names, rows by column name) of a UTF-8 file.

    As in the csv module, missing cells are None, and cells beyond the names are under the key None.

    Raises:
        UserError: if the file cannot be opened, is not a table, names a column twice, or is larger than the
            limits.
    """
    text = regular_file.read_text(path, "tables", LARGEST)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        names = tuple(reader.fieldnames or ())
        if len(names) > _MOST_COLUMNS or len(set(names)) < len(names):
            raise UserError(f"{path} is not a table: it has too many columns, or names one twice.")
        rows = []
        for row in reader:
            rows.append(row)
            if len(rows) > most_rows:
                raise UserError(f"{path} has more than {most_rows} lines. Remove some.")
    except csv.Error as error:
        raise UserError(f"{path} is not a table ({error}).") from None
    return names, rows
