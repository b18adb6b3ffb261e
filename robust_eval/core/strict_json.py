"""Read untrusted JSON: limited size; NaN, infinity and duplicate keys are rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from robust_eval.core.errors import UserError

LARGEST = 64 * 2**20


def read(path: Path) -> Any:
    """Read the value in a UTF-8 file.

    Raises:
        UserError: if the file is missing, larger than 64 MiB or not valid JSON, or contains NaN, infinity
            or duplicate keys, which JSON readers interpret differently.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Name a file in it, such as result.json.")
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(
                f"{path} is larger than {LARGEST // 2**20} MiB, so it was not written by robust-eval."
            )
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except RecursionError:
        raise UserError(f"{path} is not readable as JSON (nested too deeply).") from None
    except _RefusedError as error:
        raise UserError(f"{path} {error}.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}). Is it truncated?") from None


class _RefusedError(Exception):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"contains {name}, which is not a number that can be compared")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise _RefusedError(f"has the key {repeated[:80]!r} twice in one object")
    return value
