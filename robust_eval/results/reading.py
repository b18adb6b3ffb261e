"""Read result files of any published schema version."""

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
"""For each old version v, the conversion to version v + 1; empty until the schema first changes."""


def migrate(value: dict[str, Any], version: int, migrations: Mapping[int, Migration]) -> dict[str, Any]:
    """Convert a result of an older version to the newest, one version at a time."""
    while version < SCHEMA_VERSION:
        value = dict(migrations[version](value))
        version += 1
        value["schema_version"] = version
    return value


def read_result(path: Path) -> EvalResult:
    """Read and validate a result file. Older versions are converted in memory; the file is not changed.

    Raises :class:`UserError` for anything that is not a result of a known version.
    """
    return parse_result(strict_json.read(path), path)


def parse_result(value: Any, path: Path) -> EvalResult:
    """Validate a JSON value read from ``path``; see :func:`read_result`."""
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"{path} is not a robust-eval result: it has no schema_version.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, newer than {SCHEMA_VERSION}, the newest that this release "
            "reads. Upgrade robust-eval."
        )
    if any(step not in MIGRATIONS for step in range(version, SCHEMA_VERSION)):
        raise UserError(f"{path} has schema version {version}, which was never published. Evaluate again.")
    try:
        return EvalResult.model_validate(migrate(value, version, MIGRATIONS))
    except ValidationError as error:
        raise UserError(f"{path} is not a valid result: {first_error(error)}.") from None


def first_error(error: ValidationError) -> str:
    """The first validation error on one line: ``field: message``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return printable(f"{where}: {first['msg']}" if where else str(first["msg"]))


def content_digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of white space and key order in the file."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def json_schema() -> str:
    """The published JSON schema, ``schemas/result-1.json``."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **EvalResult.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"
