"""The result file's records.

Accuracies are fractions and come from integer counts. ``robust_bits`` holds one character per
example in the order of the slice: ``1`` robust, ``0`` not.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from robust_eval.core.closed_model import ClosedModel

SCHEMA_VERSION = 1
RESULT_FILE = "result.json"
EVIDENCE_FILE = "evidence.safetensors"

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Bits = Annotated[str, Field(pattern=r"^[01]+$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,79}$")]
"""A bare name: what a record speaks of lies beside it, never up or elsewhere."""


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
    """Exact, as text: 8/255 and 0.031 are different threat models."""
    eps_value: Annotated[float, Field(gt=0)]


class SuiteRecord(ClosedModel):
    name: str
    version: int
    columns: tuple[str, ...]
    batch_size: int
    seed: int
    precision: str
    split: int = 1
    """Small waves were cut into units of down to batch_size / split examples."""
    blocks: int = 1
    """Parts of the examples that share no unit (``--shard``)."""


class AttackRecord(ClosedModel):
    id: str
    family: str
    version: int
    library: str
    citation: str
    params: dict[str, Any]
    note: str = ""
    """How few classes changed the attack, where they did."""
    n_attacked: NonNegativeInt
    n_broken: NonNegativeInt
    n_invalid: NonNegativeInt
    forwards: NonNegativeInt
    backwards: NonNegativeInt
    seconds: Seconds


class Count(ClosedModel):
    """What a column and the worst case share."""

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


class DiagnosisRecord(ClosedModel):
    """What ``--diagnose`` counted among ``images`` examples that are right without an attack."""

    images: NonNegativeInt
    broken: NonNegativeInt
    """By PGD-20, as in its column."""
    broken_more_steps: NonNegativeInt
    """By PGD-40."""
    broken_restarts: NonNegativeInt
    """By PGD-20 from at least one of five starts."""
    broken_short_steps: NonNegativeInt
    """By PGD-20 with a quarter of the step."""
    broken_long_steps: NonNegativeInt
    """By PGD-20 with four times the step."""
    not_rising: NonNegativeInt
    """Margin no smaller after PGD-20 than before."""
    unbounded_left: NonNegativeInt
    """Still right when any image in the box is allowed."""
    noise_alone: NonNegativeInt
    """Broken by random noise in the ball, by none of the attacks above."""
    fresh: float | None
    """Largest difference between logits here and in a fresh process, in units of their spread; None for a
    model without a file, or where the process failed."""
    fresh_problem: str = ""
    """Why the fresh process gave no answer."""
    forwards: NonNegativeInt
    backwards: NonNegativeInt


class DisagreementRecord(ClosedModel):
    """What a search in reduced precision missed: the same attacks, images and seeds in float32 as well."""

    images: NonNegativeInt
    attacks: tuple[str, ...]
    verdicts: NonNegativeInt
    """Images times attacks."""
    weaker: NonNegativeInt
    """Verdicts broken by the float32 search alone."""
    stronger: NonNegativeInt
    """Verdicts broken by the reduced search alone."""


class TuningRecord(ClosedModel):
    """How the search copy was called in one precision; it changes verdicts by rounding alone."""

    rows: int | None
    """Images in a call without gradients; None: the whole batch."""
    gradient_rows: int | None
    compiled: bool
    gradient_compiled: bool
    near_rows: int | None = None
    """SPSA's steps in a call that takes them as changes, in bfloat16; None: asked like other images."""


class SearchRecord(ClosedModel):
    """What was done to the copy of the model that attacks searched on."""

    notes: tuple[str, ...]
    tunings: dict[str, TuningRecord]
    disagreement: DisagreementRecord | None = None
    """Where a column was searched in less than float32."""


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
    diagnosis: DiagnosisRecord | None = None
    """Where the run was asked for one."""
    search: SearchRecord | None = None
    """None in files from before there was a choice."""
    environment: Environment
    labels_sha256: Sha256
    request: Sha256
    """Digest of everything that was asked; the evidence of the same run carries it too."""
    evidence: EvidenceRecord | None = None
    command: str | None = None
    created: str

    @property
    def rankable(self) -> bool:
        return self.status == "complete" and all(flag.severity != "blocks ranking" for flag in self.flags)

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"
