"""Reading a result file: which versions are understood, and what is said of a file that is not one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.text import printable
from robust_eval.results.schema import SCHEMA_VERSION, EvalResult

Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: Mapping[int, Migration] = {}
"""Version v -> how its fields become those of version v + 1. Filled when the schema first changes."""


def migrate(value: dict[str, Any], version: int, migrations: Mapping[int, Migration]) -> dict[str, Any]:
    """A result of any older version, step by step, as one of the newest."""
    while version < SCHEMA_VERSION:
        value = dict(migrations[version](value))
        version += 1
        value["schema_version"] = version
    return value


def read_result(path: Path) -> EvalResult:
    """A result file, checked. Raises :class:`UserError` for anything that is not one.

    Older versions are brought up to date; the file itself is left as it is.
    """
    return parse_result(strict_json.read(path), path)


def parse_result(value: Any, path: Path) -> EvalResult:
    """What was read from ``path`` as a result; see :func:`read_result`."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"{path} is not a robust-eval result: it has no schema_version.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, newer than {SCHEMA_VERSION}, the newest known here. "
            "Upgrade robust-eval."
        )
    if any(step not in MIGRATIONS for step in range(version, SCHEMA_VERSION)):
        raise UserError(f"{path} has schema version {version}, which was never published. Evaluate again.")
    try:
        return EvalResult.model_validate(migrate(value, version, MIGRATIONS))
    except ValidationError as error:
        raise UserError(f"{path} is not a valid result: {first_error(error)}.") from None


def first_error(error: ValidationError) -> str:
    """``where: what`` of the first complaint, on one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return printable(f"{where}: {first['msg']}" if where else str(first["msg"]))


def content_digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever its layout in the file."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> str:
    """The published description, ``schemas/result-1.json``."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **EvalResult.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"
