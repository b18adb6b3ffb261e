"""Build the result of a run from its verdicts and the report on the model, and write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from robust_eval.core import strict_json
from robust_eval.core.errors import UserError
from robust_eval.core.files import report_write_errors, temporary_path, write_text
from robust_eval.core.folders import change_files
from robust_eval.core.request import CLEAN, Request
from robust_eval.evaluation.planning.cascade import FinishedColumn, labels
from robust_eval.results import (
    EVIDENCE_FILE,
    RESULT_FILE,
    DiagnosisRecord,
    Environment,
    EvalResult,
    FlagRecord,
    SearchRecord,
    SecondJudgementRecord,
    flags,
    summary,
)
from robust_eval.results.evidence import BrokenPart, write_evidence
from robust_eval.results.request_records import request_records

DIAGNOSIS_FILE = "diagnosis.json"


@dataclass(frozen=True)
class ModelReport:
    """What the result states about the model and the machine."""

    flags: tuple[FlagRecord, ...]
    environment: Environment
    search: SearchRecord | None = None
    """None before the attacks are finished."""
    second_judgement: SecondJudgementRecord | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time of what is not attack, by part."""


def write(
    request: Request,
    finished: Mapping[str, FinishedColumn],
    report: ModelReport,
    diagnosis: DiagnosisRecord | None,
    command: str | None,
    folder: Path | None,
    *,
    evidence: Mapping[str, Sequence[BrokenPart]] | None,
) -> EvalResult:
    """The result of the finished columns, in the suite's order; ``partial`` if columns are missing.

    It is written to ``folder`` if given, which must be locked, together with the ``evidence``: the
    adversarial images of each column with attacks.

    Raises:
        LookupError: if images are no longer stored.
    """
    file = None if folder is None or evidence is None else temporary_path(folder / EVIDENCE_FILE)
    try:
        return _write(request, finished, report, diagnosis, command, folder, (file, evidence or {}))
    finally:
        if file is not None:
            with suppress(OSError):  # the next command removes it
                file.unlink()


def _write(
    request: Request,
    finished: Mapping[str, FinishedColumn],
    report: ModelReport,
    diagnosis: DiagnosisRecord | None,
    command: str | None,
    folder: Path | None,
    evidence: tuple[Path | None, Mapping[str, Sequence[BrokenPart]]],
) -> EvalResult:
    order = dict.fromkeys((CLEAN, *(column.id for column in request.suite.columns)))
    finished = {name: finished[name] for name in order if name in finished}
    checkpoint, data, threat, suite = request_records(request)
    columns = {name: column.record for name, column in finished.items()}
    missing = tuple(column.id for column in request.suite.columns if column.id not in columns)
    y_N = labels(finished[CLEAN], request.data.n)
    record, files = None, dict[str, bytes | Path]()
    file, parts = evidence
    if file is not None:
        described = {
            "checkpoint": checkpoint.sha256,
            "data": data.fingerprint,
            "threat": str(request.threat),
            "request": request.key,
        }
        with report_write_errors(file.parent):
            record = write_evidence(
                file, {name: parts[name] for name in finished if name in parts}, y_N, described
            )
        files[EVIDENCE_FILE] = file
    found = (
        *report.flags,
        *flags.from_columns(columns, checkpoint.classes),
        *flags.from_perturbation_size(_reach(request, finished), request.threat.norm),
        *flags.from_record(checkpoint, data, columns[CLEAN]),
        *(flags.from_search(report.search) if report.search is not None else ()),
        *flags.from_second_judgement(report.second_judgement),
        *(flags.from_diagnosis(diagnosis) if diagnosis is not None else ()),
    )
    result = EvalResult(
        status="partial" if missing else "complete",
        checkpoint=checkpoint,
        data=data,
        threat=threat,
        suite=suite,
        columns=columns,
        missing=missing,
        worst_case=summary.worst_case(columns),
        flags=flags.distinct(found),
        diagnosis=diagnosis,
        search=report.search,
        second_judgement=report.second_judgement,
        environment=report.environment,
        seconds={part: round(seconds, 3) for part, seconds in report.seconds.items()},
        labels_sha256=summary.labels_digest(y_N),
        request=request.key,
        evidence=record,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if folder is not None:
        change_files(folder, {**files, RESULT_FILE: result.to_json().encode()})
    return result


def _reach(request: Request, finished: Mapping[str, FinishedColumn]) -> dict[str, float]:
    """Per column, the largest perturbation that was judged, as a fraction of epsilon."""
    distances = {
        name: np.concatenate([r.verdicts.distance for stage in column.stages for r in stage.results])
        for name, column in finished.items()
        if any(stage.results for stage in column.stages)
    }
    return {name: float(found.max()) / request.threat.radius for name, found in distances.items()}


def store_diagnosis(folder: Path, diagnosis: DiagnosisRecord) -> None:
    """Write a diagnosis to a run folder."""
    write_text(folder / DIAGNOSIS_FILE, diagnosis.model_dump_json(indent=1) + "\n")


def stored_diagnosis(folder: Path | None) -> DiagnosisRecord | None:
    """The diagnosis that an earlier command wrote to the run folder; its flags stay in the result."""
    if folder is None or not (folder / DIAGNOSIS_FILE).is_file():
        return None
    try:
        return DiagnosisRecord.model_validate(strict_json.read(folder / DIAGNOSIS_FILE))
    except (UserError, ValidationError):
        return None
