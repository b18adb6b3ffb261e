"""The result file: what is written, what is read back, and which versions are understood.

Accuracies are fractions and come from integer counts. ``robust_bits`` holds one character per
example in the order of the slice: ``1`` robust, ``0`` not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robust_eval.errors import UserError

SCHEMA_VERSION = 1
RESULT_FILE = "result.json"
EVIDENCE_FILE = "evidence.safetensors"


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ArchitectureRecord(Record):
    id: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class NormalisationRecord(Record):
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


class CheckpointRecord(Record):
    name: str
    sha256: str
    architecture: ArchitectureRecord
    classes: int
    normalisation: NormalisationRecord
    format: str
    dataset: str | None
    trained_with: dict[str, Any] | None
    notes: tuple[str, ...]


class DataRecord(Record):
    name: str
    split: str
    n: int
    fingerprint: str
    class_names: tuple[str, ...]
    order: str


class ThreatRecord(Record):
    norm: Literal["Linf", "L2"]
    eps: str
    """Exact, as text: 8/255 and 0.031 are different threat models."""
    eps_value: float


class SuiteRecord(Record):
    name: str
    version: int
    columns: tuple[str, ...]
    batch_size: int
    seed: int
    precision: str


class AttackRecord(Record):
    id: str
    family: str
    version: int
    library: str
    citation: str
    params: dict[str, Any]
    note: str = ""
    """How few classes changed the attack, where they did."""
    n_attacked: int
    n_broken: int
    n_invalid: int
    forwards: int
    backwards: int
    seconds: float


class Count(Record):
    """What a column and the worst case share."""

    accuracy: float
    n: int
    n_robust: int
    ci95: tuple[float, float]
    robust_bits: str
    forwards: int
    backwards: int
    seconds: float


class ColumnRecord(Count):
    title: str
    n_invalid: int
    n_nonfinite: int
    attacks: tuple[AttackRecord, ...]


class WorstCase(Count):
    columns: tuple[str, ...]


class FlagRecord(Record):
    id: str
    severity: Literal["blocks ranking", "warns"]
    figure: str
    threshold: str
    advice: str


class Environment(Record):
    robust_eval: str
    python: str
    platform: str
    libraries: dict[str, str]
    device: str
    threads: int
    tf32: bool


class EvidenceRecord(Record):
    file: str
    sha256: str
    images: int


class EvalResult(Record):
    """One evaluated checkpoint: a row of a leaderboard and all it rests on."""

    schema_version: Literal[1] = 1
    status: Literal["complete", "partial"]
    checkpoint: CheckpointRecord
    data: DataRecord
    threat: ThreatRecord
    suite: SuiteRecord
    columns: dict[str, ColumnRecord]
    missing: tuple[str, ...] = ()
    """Columns with work still to do; a partial result is shown but never ranked."""
    worst_case: WorstCase
    flags: tuple[FlagRecord, ...]
    environment: Environment
    labels_sha256: str
    evidence: EvidenceRecord | None = None
    command: str | None = None
    created: str

    @property
    def rankable(self) -> bool:
        return self.status == "complete" and all(flag.severity != "blocks ranking" for flag in self.flags)

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


def read_result(path: Path) -> EvalResult:
    """A result file, checked. Raises :class:`UserError` for anything that is not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not readable as JSON ({error}). Is it truncated?") from None
    version = value.get("schema_version") if isinstance(value, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{path} is not a robust-eval result: it has no schema_version.")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, newer than {SCHEMA_VERSION}, the newest known here. "
            "Upgrade robust-eval."
        )
    try:
        return EvalResult.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{path} is not a valid result: {where}: {first['msg']}.") from None
