"""What may lie beside a result and only the page shows: a learning curve and a few images.

``<stem>.curve.csv`` is the CSV that training leaves; ``<stem>.images.json`` is a :class:`Pictures`.
Neither is part of the record: a board without them is complete.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from robust_eval.core import strict_json
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.leaderboard.row import CURVE_SUFFIX, IMAGES_SUFFIX, Row, companion
from robust_eval.leaderboard.rules import Problem
from robust_eval.results import EvalResult, first_error

MOST_EPOCHS = 2000
LARGEST = 64 * 2**10
"""Bytes of a file of images; those made here keep well below."""
MEASURED = ("loss", "train_clean", "train_pgd", "val_clean", "val_pgd")
"""What both a curve and a checkpoint of its run say of an epoch."""

Png = Annotated[str, Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+={0,2}$")]


class Picture(ClosedModel):
    """One broken example."""

    index: int = Field(ge=0)
    """Position in the slice."""
    label: str
    column: str
    """The column whose attack broke it."""
    seen_as: str | None = None
    """What the model took the adversarial image for, where that is known."""
    clean: Png
    adversarial: Png
    difference: Png
    """Mid grey where nothing changed."""
    amplified: float = Field(gt=0)
    """Factor of the difference."""


class Pictures(ClosedModel):
    schema_version: Literal[1] = 1
    size: tuple[int, int]
    """(height, width) of each image as stored here."""
    examples: tuple[Picture, ...] = Field(max_length=8)


@dataclass(frozen=True)
class Sidecar:
    """``curve``: column name to values, NaN where nothing was measured."""

    curve: Mapping[str, Sequence[float]] | None = None
    pictures: Pictures | None = None


NOTHING = Sidecar()


def read(board: Path, rows: Sequence[Row]) -> dict[str, Sidecar]:
    """File of each row to what lies beside it. A UserError for a file that is not what its name says."""
    found = {}
    for row in rows:
        result = board / row.file
        curve = companion(result, CURVE_SUFFIX)
        images = companion(result, IMAGES_SUFFIX)
        found[row.file] = Sidecar(
            read_curve(curve) if curve.is_file() else None,
            read_pictures(images) if images.is_file() else None,
        )
    return found


def problems(board: Path, rows: Sequence[Row]) -> Iterator[Problem]:
    """Curves and images that are not of the row they lie beside, as far as its record can tell."""
    for row in rows:
        result = board / row.file
        for suffix, of_row in ((CURVE_SUFFIX, _curve_of), (IMAGES_SUFFIX, _images_of)):
            path = companion(result, suffix)
            if path.is_file():
                try:
                    fits = of_row(path, row.result)
                except UserError:
                    continue  # said where the pages are built
                if not fits:
                    yield Problem(path.relative_to(board).as_posix(), "is not of the row it lies beside")


def _curve_of(path: Path, result: EvalResult) -> bool:
    """At the checkpoint's epoch the curve holds what the checkpoint says was measured."""
    metrics = (result.checkpoint.trained_with or {}).get("metrics")
    said = metrics if isinstance(metrics, dict) else {}
    curve = read_curve(path)
    if "epoch" not in said:
        return True
    if said["epoch"] not in curve["epoch"]:
        return False
    place = curve["epoch"].index(said["epoch"])
    shared = [
        (said[name], curve[name][place])
        for name in MEASURED
        if isinstance(said.get(name), int | float) and name in curve
    ]
    return all(math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-9) for one, other in shared)


def _images_of(path: Path, result: EvalResult) -> bool:
    """Every image is of an example that its column broke."""
    robust = {column.title: parse_bits(column.robust_bits) for column in result.columns.values()}
    return all(
        found.column in robust
        and found.index < len(robust[found.column])
        and not robust[found.column][found.index]
        for found in read_pictures(path).examples
    )


def read_curve(path: Path) -> dict[str, list[float]]:
    """A table of numbers with an ``epoch`` column; empty cells are NaN."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            names = tuple(reader.fieldnames or ())
            curve: dict[str, list[float]] = {name: [] for name in names}
            for number, line in enumerate(reader):
                if number >= MOST_EPOCHS:
                    raise UserError(f"{path} has more than {MOST_EPOCHS} lines: leave some epochs out.")
                if None in line:
                    raise ValueError("a line has too many cells")
                for name in names:
                    curve[name].append(_number(line[name]))
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is not a table of numbers ({error}).") from None
    if "epoch" not in curve or any(math.isnan(epoch) for epoch in curve["epoch"]):
        raise UserError(f"{path} has no epoch in some line: it is not a learning curve.")
    return curve


def checked_curve(path: Path) -> str:
    """A learning curve as training left it, once it is known to be one."""
    read_curve(path)
    return path.read_text(encoding="utf-8")


def write(result: Path, curve: str | None, pictures: Pictures | None) -> list[Path]:
    """Put a curve and pictures beside a filed result."""
    written = []
    if curve is not None:
        written.append(companion(result, CURVE_SUFFIX))
        write_text(written[-1], curve)
    if pictures is not None:
        written.append(companion(result, IMAGES_SUFFIX))
        write_text(written[-1], pictures.model_dump_json(indent=1) + "\n")
    return written


def _number(text: str | None) -> float:
    if text is None:
        raise ValueError("a line has too few cells")
    value = float(text) if text else math.nan
    if math.isinf(value):
        raise ValueError("it contains infinity")
    return value


def read_pictures(path: Path) -> Pictures:
    if path.stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST // 2**10} KiB: keep fewer or smaller images.")
    try:
        return Pictures.model_validate(strict_json.read(path))
    except ValidationError as error:
        raise UserError(f"{path} is not a valid file of images: {first_error(error)}.") from None
