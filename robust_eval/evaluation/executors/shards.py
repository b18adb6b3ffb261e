"""Folders of shards: their names, and the file that marks a shard as finished, for ``merge``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.files import write_text
from robust_eval.core.request import Request
from robust_eval.core.threat import parse_threat
from robust_eval.evaluation.result_writer import ModelReport

FILE = "shard.json"
_MOST_UNITS = 1_000_000
_SUFFIX = re.compile(r"\.shard-(\d+)-of-(\d+)$")


@dataclass(frozen=True)
class Shard:
    """Content of a finished shard's file."""

    number: int
    """Counted from 0."""
    request: Request
    report: Annotated[ModelReport, Field(alias="look")]
    """``look`` in files."""
    command: str


_ADAPTER = TypeAdapter(Shard)


def parse(text: str) -> tuple[int, int]:
    """``3/16`` as (2, 16): the number counted from 0, and how many shards there are.

    Raises:
        UserError: for anything else.
    """
    found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if found is None:
        raise UserError(f"--shard '{text}' is not I/N: write for example --shard 3/16.")
    number, of = int(found[1]), int(found[2])
    if not 1 <= number <= of:
        most = f"count from 1 to {of}" if of else "are at least one: 1/1 is everything"
        raise UserError(f"--shard {text} is out of range: shards {most}.")
    return number - 1, of


def folder(run: Path, number: int, of: int) -> Path:
    """``<run>.shard-3-of-16``."""
    return run.with_name(f"{run.name}.shard-{number + 1}-of-{of}")


def run_folder(shard: Path) -> Path | None:
    """The run folder that a shard's folder is named after; None for another name."""
    path = shard.resolve()
    return path.parent / _SUFFIX.sub("", path.name) if _SUFFIX.search(path.name) else None


def write(shard_folder: Path, request: Request, number: int, report: ModelReport, command: str) -> None:
    """Mark a shard as complete."""
    content = _ADAPTER.dump_json(Shard(number, request, report, command), indent=1, by_alias=True)
    write_text(shard_folder / FILE, content.decode() + "\n")


def read(shard_folder: Path) -> Shard:
    """Read a finished shard's file.

    Raises:
        UserError: for a folder that is not a finished shard.
    """
    if not shard_folder.is_dir():
        raise UserError(f"{shard_folder} is not a folder. Give the folders that --shard wrote.")
    if not (shard_folder / FILE).exists():
        raise UserError(
            f"{shard_folder} does not contain a finished shard ({FILE} is missing): run its command with "
            "--shard again."
        )
    value = strict_json.read(shard_folder / FILE)
    try:
        # Before its epsilon is computed from text of any length.
        parse_threat(str(value["request"]["threat"]["norm"]), str(value["request"]["threat"]["eps"]))
        shard = _ADAPTER.validate_python(value)
        problem = _problem(shard)
    except (UserError, LookupError, TypeError) as error:
        problem = f"its threat model cannot be read: {error}"
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
    if problem:
        raise UserError(f"{shard_folder / FILE} is damaged ({problem}): run the shard again.")
    return shard


def _problem(shard: Shard) -> str:
    """Numbers with which a plan of the request would have no end; '' if there are none."""
    request = shard.request
    sound = request.batch_size >= 1 and request.split >= 1 and 0 <= shard.number < request.shards
    units = request.data.n * request.split // max(request.batch_size, 1)
    return "" if sound and units <= _MOST_UNITS else "its numbers of examples and units are impossible"
