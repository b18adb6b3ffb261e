"""The records of a result file, as pydantic models.

Accuracies are fractions of integer counts. ``robust_bits`` holds one character per example in the order of
the images: ``1`` robust, ``0`` not robust. Class docstrings appear as descriptions in the
published JSON schema.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from robust_eval.core.closed_model import ClosedModel
from robust_eval.results.schema_checks import DiagnosisRecord, SearchRecord, SecondJudgementRecord
from robust_eval.results.schema_types import (
    Bits,
    FileName,
    Fraction,
    NonNegativeInt,
    PositiveInt,
    Seconds,
    Sha256,
)

SCHEMA_VERSION = 1
RESULT_FILE = "result.json"
EVIDENCE_FILE = "evidence.safetensors"


class ArchitectureRecord(ClosedModel):
    id: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class NormalisationRecord(ClosedModel):
    name: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


class CheckpointRecord(ClosedModel):
    name: str
    sha256: Sha256
    architecture: ArchitectureRecord
    classes: Annotated[int, Field(ge=1)]
    normalisation: NormalisationRecord
    format: str
    dataset: str | None
    trained_with: dict[str, Any] | None
    notes: tuple[str, ...]


class DataRecord(ClosedModel):
    name: str
    split: str
    n: Annotated[int, Field(ge=1)]
    fingerprint: Sha256
    class_names: tuple[str, ...]
    order: str


class ThreatRecord(ClosedModel):
    norm: Literal["Linf", "L2"]
    eps: str
    """Exact value as text: 8/255 and 0.031 are different threat models."""
    eps_value: Annotated[float, Field(gt=0)]


class SuiteRecord(ClosedModel):
    name: str
    version: int
    columns: tuple[str, ...]
    batch_size: PositiveInt
    seed: int
    precision: str
    split: PositiveInt = 1
    """Small stages were divided into units of no fewer than batch_size / split examples."""
    long_split: PositiveInt | None = None
    """The same for long attacks; None: ``split``."""
    blocks: PositiveInt = 1
    """Number of shards (``--shard``): no unit spans two of them."""


class AttackRecord(ClosedModel):
    id: str
    family: str
    version: int
    library: str
    citation: str
    params: dict[str, Any]
    note: str = ""
    """How the attack was adapted to a small number of classes, if it was."""
    n_attacked: NonNegativeInt
    n_broken: NonNegativeInt
    n_invalid: NonNegativeInt
    forwards: NonNegativeInt
    backwards: NonNegativeInt
    seconds: Seconds


class Count(ClosedModel):
    """Fields shared by a column and the worst case."""

    accuracy: Fraction
    n: Annotated[int, Field(ge=1)]
    n_robust: NonNegativeInt
    ci95: tuple[Fraction, Fraction]
    robust_bits: Bits
    forwards: NonNegativeInt
    backwards: NonNegativeInt
    seconds: Seconds


class ColumnRecord(Count):
    title: str
    n_invalid: NonNegativeInt
    n_nonfinite: NonNegativeInt
    attacks: tuple[AttackRecord, ...]


class WorstCase(Count):
    columns: tuple[str, ...]


class FlagRecord(ClosedModel):
    id: str
    severity: Literal["blocks ranking", "warns"]
    figure: str
    threshold: str
    advice: str


class Environment(ClosedModel):
    robust_eval: str
    python: str
    platform: str
    libraries: dict[str, str]
    device: str
    threads: int
    tf32: bool


class EvidenceRecord(ClosedModel):
    file: FileName
    sha256: Sha256
    images: NonNegativeInt


class EvalResult(ClosedModel):
    """The evaluation of one checkpoint: verdicts, settings, flags and environment."""

    schema_version: Literal[1] = 1
    status: Literal["complete", "partial"]
    checkpoint: CheckpointRecord
    data: DataRecord
    threat: ThreatRecord
    suite: SuiteRecord
    columns: dict[str, ColumnRecord]
    missing: tuple[str, ...] = ()
    """Unfinished columns; a partial result is shown but never ranked."""
    worst_case: WorstCase
    flags: tuple[FlagRecord, ...]
    diagnosis: DiagnosisRecord | None = None
    """Set if the run was started with ``--diagnose``."""
    search: SearchRecord | None = None
    """None in files written before the attack copy was configurable."""
    second_judgement: SecondJudgementRecord | None = None
    """None for a model with random outputs, and in files of earlier versions."""
    environment: Environment
    seconds: dict[str, Seconds] = Field(default_factory=dict)
    """Time of what is not attack: loading, probes, tuning, checks; empty in files of earlier versions."""
    labels_sha256: Sha256
    request: Sha256
    """Digest of the request; also stored in the evidence of the run."""
    evidence: EvidenceRecord | None = None
    command: str | None = None
    created: str

    @property
    def rankable(self) -> bool:
        """Whether the result is complete and no recorded flag blocks ranking."""
        return self.status == "complete" and all(flag.severity != "blocks ranking" for flag in self.flags)

    def __repr__(self) -> str:
        accuracies = [f"{column.title} {100 * column.accuracy:.2f}%" for column in self.columns.values()]
        low, high = (100 * bound for bound in self.worst_case.ci95)
        worst = f"worst case {100 * self.worst_case.accuracy:.2f}% ({low:.1f} to {high:.1f})"
        flags = ", ".join(flag.id for flag in self.flags) or "none"
        where = f"{self.checkpoint.name} on {self.data.name}, {self.threat.norm} {self.threat.eps}"
        return f"<EvalResult {where}, n = {self.data.n}: {', '.join([*accuracies, worst])}; flags: {flags}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        from robust_eval.results.html_table import html_table  # which imports these records

        return html_table(self)

    def to_json(self) -> str:
        """The content of the result file."""
        return self.model_dump_json(indent=1) + "\n"
