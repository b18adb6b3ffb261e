"""Convert a request to the records of a result, and back."""

from __future__ import annotations

from dataclasses import asdict

from robust_eval.core.request import Request
from robust_eval.core.threat import parse_threat
from robust_eval.core.types import (
    Architecture,
    AttackSpec,
    CheckpointRef,
    Column,
    Normalisation,
    Slice,
    Suite,
)
from robust_eval.results import CheckpointRecord, DataRecord, EvalResult, SuiteRecord, ThreatRecord


def request_records(request: Request) -> tuple[CheckpointRecord, DataRecord, ThreatRecord, SuiteRecord]:
    """The records of a result that describe its request."""
    threat, suite = request.threat, request.suite
    return (
        CheckpointRecord.model_validate(asdict(request.checkpoint)),
        DataRecord.model_validate(asdict(request.data)),
        ThreatRecord(norm=threat.norm, eps=threat.eps_text, eps_value=threat.radius),
        SuiteRecord(
            name=suite.name,
            version=suite.version,
            columns=tuple(column.id for column in suite.columns),
            batch_size=request.batch_size,
            seed=request.seed,
            precision=request.precision,
            split=request.split,
            long_split=request.long_split,
            blocks=request.shards,
        ),
    )


def request_of(result: EvalResult) -> Request:
    """Rebuild the request of a complete result from its records; the inverse of :func:`request_records`."""
    checkpoint, threat, suite = result.checkpoint, result.threat, result.suite
    columns = result.columns
    architecture, normalisation = checkpoint.architecture, checkpoint.normalisation
    return Request(
        checkpoint=CheckpointRef(
            **{
                **checkpoint.model_dump(),
                "architecture": Architecture(architecture.id, architecture.arguments),
                "normalisation": Normalisation(normalisation.name, normalisation.mean, normalisation.std),
            }
        ),
        data=Slice(**result.data.model_dump()),
        threat=parse_threat(threat.norm, threat.eps),
        suite=Suite(
            suite.name,
            suite.version,
            tuple(
                Column(
                    name,
                    columns[name].title,
                    tuple(AttackSpec(a.id, a.family, a.version, a.params) for a in columns[name].attacks),
                )
                for name in suite.columns
            ),
        ),
        batch_size=suite.batch_size,
        seed=suite.seed,
        libraries=tuple({a.family: a.library for c in columns.values() for a in c.attacks}.items()),
        precision=suite.precision,
        split=suite.split,
        long_split=suite.long_split,
        shards=suite.blocks,
    )
