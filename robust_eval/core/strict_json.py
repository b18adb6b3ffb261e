"""Read untrusted JSON: limited size, depth and numbers; NaN, infinity and duplicate keys are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from robust_eval.core import plain_values, regular_file
from robust_eval.core.errors import UserError

LARGEST = 64 * 2**20
"""Largest size of a file in bytes."""
_LONGEST_NUMBER = 100


def read(path: Path) -> Any:
    """Read the value in a UTF-8 file.

    Raises:
        UserError: if the file cannot be opened or is larger than LARGEST, and like :func:`loads`.
    """
    return loads(regular_file.read_text(path, "JSON files", LARGEST), str(path))


def loads(text: str, name: str) -> Any:
    """The value of a JSON text; ``name`` begins the error messages.

    Raises:
        UserError: for invalid JSON; for NaN, infinity and duplicate keys, which JSON readers interpret
            differently; for numbers that change when they are read; and for values beyond the limits of
            :mod:`robust_eval.core.plain_values`.
    """
    # Each value but the first follows one of these; counted before any memory is used for values.
    if sum(text.count(mark) for mark in ",[{") > plain_values.MOST_VALUES:
        raise UserError(f"{name} holds more than {plain_values.MOST_VALUES:,} values.")
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_number,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise UserError(f"{name} is nested more than {plain_values.MOST_LEVELS} levels deep.") from None
    except _RefusedError as error:
        raise UserError(f"{name} {error}.") from None
    except ValueError as error:
        raise UserError(f"{name} is not readable as JSON ({error}). Is it truncated?") from None
    if (problem := plain_values.problem(value)) is not None:
        raise UserError(f"{name} {problem}.")
    return value


class _RefusedError(Exception):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"contains {name}, which is not a number that can be compared")


def _integer(digits: str) -> int:
    _refuse_long(digits)
    return int(digits)


def _number(digits: str) -> float:
    _refuse_long(digits)
    value = float(digits)
    mantissa = digits.lower().partition("e")[0]
    if math.isinf(value) or (value == 0 and any(digit in "123456789" for digit in mantissa)):
        raise _RefusedError(f"contains {digits}, which is beyond the range of numbers")
    return value


def _refuse_long(digits: str) -> None:
    if len(digits) > _LONGEST_NUMBER:
        raise _RefusedError(f"contains a number of more than {_LONGEST_NUMBER} characters")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RefusedError(f"has the key {key[:80]!a} twice in one object")
            seen.add(key)
    return value
