"""The records of a result file, as pydantic models.

Accuracies are fractions of integer counts. ``robust_bits`` holds one character per example in the order of
the images: ``1`` robust, ``0`` not robust. Class docstrings appear as descriptions in the
published JSON schema.
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
"""A file name without folders: the file must be in the same folder as the record."""


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
    batch_size: int
    seed: int
    precision: str
    split: int = 1
    """Small stages were divided into units of no fewer than batch_size / split examples."""
    blocks: int = 1
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


class DiagnosisRecord(ClosedModel):
    """Counts of ``--diagnose`` over ``images`` examples that are classified correctly without an attack."""

    images: NonNegativeInt
    broken: NonNegativeInt
    """Examples broken by PGD-20, as in its column."""
    broken_more_steps: NonNegativeInt
    """Examples broken by PGD-40."""
    broken_restarts: NonNegativeInt
    """Examples broken by PGD-20 from at least one of five starts."""
    broken_short_steps: NonNegativeInt
    """Examples broken by PGD-20 with a quarter of the step."""
    broken_long_steps: NonNegativeInt
    """Examples broken by PGD-20 with four times the step."""
    not_rising: NonNegativeInt
    """Examples whose margin PGD-20 did not reduce."""
    unbounded_left: NonNegativeInt
    """Examples not broken although any image in the box is allowed."""
    noise_alone: NonNegativeInt
    """Examples broken by random noise in the ball, but by none of the attacks above."""
    forwards: NonNegativeInt
    backwards: NonNegativeInt


class DisagreementRecord(ClosedModel):
    """Effect of reduced precision: the same attacks, images and seeds, also run in float32."""

    images: NonNegativeInt
    attacks: tuple[str, ...]
    verdicts: NonNegativeInt
    """Number of images times number of attacks."""
    weaker: NonNegativeInt
    """Broken only with attacks in float32."""
    stronger: NonNegativeInt
    """Broken only with attacks in reduced precision."""


class TuningRecord(ClosedModel):
    """How the attack copy was called in one precision; affects verdicts only through rounding."""

    rows: int | None
    """Images per call without gradients; None: the entire batch."""
    gradient_rows: int | None
    compiled: bool
    gradient_compiled: bool
    near_rows: int | None = None
    """SPSA queries per call if differences are computed in bfloat16; None: ordinary forward passes."""


class SearchRecord(ClosedModel):
    """How the attack copy of the model was accelerated."""

    notes: tuple[str, ...]
    tunings: dict[str, TuningRecord]
    disagreement: DisagreementRecord | None = None
    """Set if attacks of a column ran in less than float32."""


class SecondJudgementRecord(ClosedModel):
    """The verdicts of a model that was loaded again and had seen no clean image, on images of the run."""

    images: NonNegativeInt
    survivors: NonNegativeInt
    """Images of robust examples; the others are of broken ones."""
    batch_sizes: tuple[int, ...]
    """Every image was judged in a batch of each of these sizes."""
    broken_differ: NonNegativeInt = 0
    """Images of broken examples that were classified correctly, by more than rounding."""
    survivors_differ: NonNegativeInt = 0
    """Images of robust examples that were misclassified, by more than rounding."""
    clean_logits: float | None = None
    """Difference between its logits of clean images, shown last, and those of the run before the attacks, of
    the median image, in units of the logits' standard deviation."""
    problem: str = ""
    """Why the model could not be loaded again."""


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

    def to_json(self) -> str:
        """The content of the result file."""
        return self.model_dump_json(indent=1) + "\n"
