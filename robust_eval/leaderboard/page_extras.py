"""Page extras: a learning curve and a few adversarial images of a row, shown on the web page only.

``<stem>.curve.csv`` is the CSV file that training writes; ``<stem>.images.json`` is a :class:`Pictures`.
Both are optional and not part of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from robust_eval.core import regular_file, strict_csv, strict_json, strict_safetensors
from robust_eval.core.closed_model import ClosedModel
from robust_eval.core.errors import UserError
from robust_eval.core.text import printable
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.leaderboard.row import CHECKPOINT_SUFFIXES, CURVE_SUFFIX, IMAGES_SUFFIX, Row, companion
from robust_eval.leaderboard.rules import Problem
from robust_eval.results import EvalResult, first_error

MAX_EPOCHS = 2000
MAX_BYTES = 64 * 2**10
"""Largest size of a file of images in bytes; :mod:`thumbnails` stays below 40 kB of images."""
MEASURED = ("loss", "train_clean", "train_pgd", "val_clean", "val_pgd")
"""Quantities that both the curve and a checkpoint of the same run record for an epoch."""

Png = Annotated[str, Field(pattern=r"^data:image/png;base64,[A-Za-z0-9+/]+={0,2}$")]


class Picture(ClosedModel):
    """One broken example: clean image, adversarial image and their difference."""

    index: int = Field(ge=0)
    """Index in the evaluated images."""
    label: str
    column: str
    """The column whose attack broke it."""
    seen_as: str | None = None
    """Class that the model predicts for the adversarial image, if known."""
    clean: Png
    adversarial: Png
    difference: Png
    """Unchanged pixels are mid grey."""
    amplified: float = Field(gt=0)
    """Factor by which the difference is amplified."""


class Pictures(ClosedModel):
    """The content of ``<stem>.images.json``."""

    schema_version: Literal[1] = 1
    size: tuple[int, int]
    """(height, width) of each image as stored here."""
    examples: tuple[Picture, ...] = Field(max_length=8)


@dataclass(frozen=True)
class PageExtras:
    """The page extras of a row. ``curve``: column name to values by epoch; NaN: not measured."""

    curve: Mapping[str, Sequence[float]] | None = None
    pictures: Pictures | None = None


NO_EXTRAS = PageExtras()


def read_extras(board: Path, rows: Sequence[Row]) -> dict[str, PageExtras]:
    """``Row.file`` to the row's page extras. Raises :class:`UserError` for invalid files."""
    found = {}
    for row in rows:
        result = board / row.file
        curve = companion(result, CURVE_SUFFIX)
        images = companion(result, IMAGES_SUFFIX)
        found[row.file] = PageExtras(
            read_curve(curve) if curve.is_file() else None,
            read_pictures(images) if images.is_file() else None,
        )
    return found


def check_extras(board: Path, rows: Sequence[Row]) -> Iterator[Problem]:
    """Curves and images that contradict the result they are stored beside."""
    for row in rows:
        result = board / row.file
        for suffix, matches in ((CURVE_SUFFIX, _curve_matches), (IMAGES_SUFFIX, _images_match)):
            path = companion(result, suffix)
            if path.is_file():
                name = path.relative_to(board).as_posix()
                try:
                    if not matches(path, row.result):
                        yield Problem(name, "does not belong to the row it is stored with")
                except UserError as error:
                    yield Problem(name, f"is malformed: {error}")


def _claimed_epoch(result: EvalResult) -> dict[str, Any]:
    """The checkpoint's claims about its own epoch, by column of the curve; empty if it names no epoch."""
    metrics = (result.checkpoint.trained_with or {}).get("metrics")
    return metrics if isinstance(metrics, dict) and "epoch" in metrics else {}


def _curve_matches(path: Path, result: EvalResult) -> bool:
    """Whether the curve agrees with the checkpoint's claims about its epoch."""
    claims, curve = _claimed_epoch(result), read_curve(path)
    if not claims:
        return True
    if claims["epoch"] not in curve["epoch"]:
        return False
    position = curve["epoch"].index(claims["epoch"])
    claimed = [name for name in MEASURED if isinstance(claims.get(name), int | float)]
    shared = [(claims[name], curve[name][position]) for name in claimed if name in curve]
    agree = all(math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-9) for one, other in shared)
    return agree and bool(shared or not claimed)


def _images_match(path: Path, result: EvalResult) -> bool:
    """Whether every image is of an example that is broken in its column."""
    robust = {column.title: parse_bits(column.robust_bits) for column in result.columns.values()}
    return all(
        found.column in robust
        and found.index < len(robust[found.column])
        and not robust[found.column][found.index]
        for found in read_pictures(path).examples
    )


def read_curve(path: Path) -> dict[str, list[float]]:
    """Read a learning curve: column name to values; empty cells are NaN.

    Raises :class:`UserError` unless the file is a table of numbers with an ``epoch`` column.
    """
    names, lines = strict_csv.read(path, MAX_EPOCHS)
    try:
        if any(None in line for line in lines):
            raise ValueError("a line has too many cells")
        curve = {name: [_number(line[name]) for line in lines] for name in names}
    except ValueError as error:
        raise UserError(f"{path} is not a table of numbers ({error}).") from None
    if "epoch" not in curve or any(math.isnan(epoch) for epoch in curve["epoch"]):
        raise UserError(f"{path} has a line without an epoch, so it is not a learning curve.")
    return curve


def extra_files(result: EvalResult, curve: Path | None, pictures: Pictures | None) -> dict[str, bytes]:
    """Suffix to content of the files that a curve and images become beside a result.

    Raises :class:`UserError` for a file that is no learning curve, or that of another checkpoint.
    """
    files: dict[str, bytes] = {}
    if curve is not None:
        _check_origin(curve, result)
        files[CURVE_SUFFIX] = regular_file.read_text(curve, "tables", strict_csv.LARGEST).encode()
    if pictures is not None:
        files[IMAGES_SUFFIX] = (pictures.model_dump_json(indent=1) + "\n").encode()
    return files


def _check_origin(curve: Path, result: EvalResult) -> None:
    """Raise :class:`UserError` unless the curve is that of the evaluated checkpoint.

    The checkpoint must lie in the curve's folder, as training writes them, and agree with it.
    """
    name, advice = printable(result.checkpoint.name), "training run, or omit --curve."
    if not _curve_matches(curve, result):
        raise UserError(
            f"{curve} is the learning curve of another checkpoint: it disagrees with what {name} records of "
            f"its epoch. Give the curve.csv of its own {advice}"
        )
    beside = sorted(curve.absolute().parent.iterdir())  # best.pt, usually the one, is among the first
    files = [path for path in beside if path.suffix in CHECKPOINT_SUFFIXES and path.is_file()]
    most = strict_safetensors.LARGEST
    if all(regular_file.sha256(path, "checkpoints", most) != result.checkpoint.sha256 for path in files):
        raise UserError(
            f"{curve} may be the learning curve of another checkpoint: no file beside it has the sha256 of "
            f"{name}. Give the curve.csv beside the evaluated checkpoint in the folder of its {advice}"
        )


def _number(text: str | None) -> float:
    if text is None:
        raise ValueError("a line has too few cells")
    value = float(text) if text else math.nan
    if math.isinf(value):
        raise ValueError("it contains infinity")
    return value


def read_pictures(path: Path) -> Pictures:
    """Read a file of images. Raises :class:`UserError` for an invalid or too large file."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES // 2**10} KiB. Store fewer or smaller images.")
    try:
        return Pictures.model_validate(strict_json.read(path))
    except ValidationError as error:
        raise UserError(f"{path} is not a valid file of images: {first_error(error)}.") from None
