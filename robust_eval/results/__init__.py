"""Result files: their records (re-exported by this package), reading, evidence, flags and comparisons.

May import ``core``.
"""

from robust_eval.results.reading import content_digest, first_error, json_schema, parse_result, read_result
from robust_eval.results.schema import (
    EVIDENCE_FILE,
    RESULT_FILE,
    SCHEMA_VERSION,
    ArchitectureRecord,
    AttackRecord,
    CheckpointRecord,
    ColumnRecord,
    Count,
    DataRecord,
    Environment,
    EvalResult,
    EvidenceRecord,
    FlagRecord,
    NormalisationRecord,
    SuiteRecord,
    ThreatRecord,
    WorstCase,
)
from robust_eval.results.schema_checks import (
    DiagnosisRecord,
    DisagreementRecord,
    SearchRecord,
    SecondJudgementRecord,
    TuningRecord,
)
from robust_eval.results.schema_types import Sha256

__all__ = [
    "EVIDENCE_FILE",
    "RESULT_FILE",
    "SCHEMA_VERSION",
    "ArchitectureRecord",
    "AttackRecord",
    "CheckpointRecord",
    "ColumnRecord",
    "Count",
    "DataRecord",
    "DiagnosisRecord",
    "DisagreementRecord",
    "Environment",
    "EvalResult",
    "EvidenceRecord",
    "FlagRecord",
    "NormalisationRecord",
    "SearchRecord",
    "SecondJudgementRecord",
    "Sha256",
    "SuiteRecord",
    "ThreatRecord",
    "TuningRecord",
    "WorstCase",
    "content_digest",
    "first_error",
    "json_schema",
    "parse_result",
    "read_result",
]
