"""Read TOML of users: limited size, depth and numbers."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from robust_eval.core import plain_values, regular_file
from robust_eval.core.errors import UserError

LARGEST = 64 * 2**10
"""Largest size of a file in bytes."""
# A dotted key lies in one line; the time and memory of tomllib grow with the square of its number of parts.
_LONGEST_LINE = 2000


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: if the file cannot be opened or is larger than LARGEST, and like :func:`loads`.
    """
    return loads(regular_file.read_text(path, "TOML files", LARGEST), str(path))


def loads(text: str, name: str) -> dict[str, Any]:
    """The table of a TOML text; ``name`` begins the error messages.

    Raises:
        UserError: for invalid TOML, for dates, and for values beyond the limits of
            :mod:`robust_eval.core.plain_values`.
    """
    if any(len(line) > _LONGEST_LINE for line in text.split("\n")):
        raise UserError(f"{name} has a line of more than {_LONGEST_LINE} characters. Divide it.")
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{name} is nested more than {plain_values.MOST_LEVELS} levels deep.") from None
    except ValueError as error:
        raise UserError(f"{name} is not valid TOML: {error}.") from None
    if (problem := plain_values.problem(table)) is not None:
        raise UserError(f"{name} {problem}.")
    return table
