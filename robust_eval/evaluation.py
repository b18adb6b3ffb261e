"""Put the pieces together: a loaded model and a slice go in, an :class:`EvalResult` comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from robust_eval import diagnose as closer
from robust_eval import disagreement, evidence, flags, probes, runner, searching, summary
from robust_eval.core.files import write_text
from robust_eval.core.records import Cost
from robust_eval.environment import environment
from robust_eval.errors import UserError
from robust_eval.estimate import measure
from robust_eval.job import PROBED, Job, estimate, make_request
from robust_eval.progress import Silent
from robust_eval.schema import (
    RESULT_FILE,
    DiagnosisRecord,
    DisagreementRecord,
    EvalResult,
    FlagRecord,
    SearchRecord,
    TuningRecord,
)
from robust_eval.store import MemoryStore, Store, exclusive, open_run
from robust_eval.worker import Worker

DIAGNOSIS_FILE = "diagnosis.json"


def execute(
    job: Job,
    folder: Path | None = None,
    display: runner.Display | None = None,
    command: str | None = None,
) -> EvalResult:
    """Run, or continue, a job. With a folder every finished unit is on disk at once.

    Interrupted (Ctrl-C), it writes what is there as a partial result and raises KeyboardInterrupt.
    """
    if folder is None:
        return _execute(job, MemoryStore(), None, display or Silent(), command)
    with exclusive(folder):
        store = open_run(folder, job.request.identity())
        return _execute(job, store, folder, display or Silent(), command)


def _execute(
    job: Job, store: Store, folder: Path | None, display: runner.Display, command: str | None
) -> EvalResult:
    finished: dict[str, runner.Finished] = {}
    probed = job.probe()
    search = job.search(folder)
    worker = job.worker(search)
    model_flags = flags.from_probe(probed)
    before = _logits(job.model, job.x_NCHW)
    try:
        for name, column in runner.run(job.request, worker, store, display):
            finished[name] = column
    except (KeyboardInterrupt, UserError):
        if finished and folder is not None:
            _write(job, finished, model_flags, None, command, folder)
        raise
    found = disagreement.measure(job.request, worker, store, finished)
    if not flags.is_random(probed):
        model_flags += _changes(job, worker, before)
    record = _search_record(job, worker, search, found)
    return _write(job, finished, model_flags, folder, command, folder, record)


def _search_record(
    job: Job, worker: Worker, search: searching.Search, found: DisagreementRecord | None
) -> SearchRecord:
    tunings = {name: TuningRecord(**asdict(way)) for name, way in search.tunings.items()}
    notes = tuple(dict.fromkeys((*job.notes, *worker.notes, *search.notes)))
    return SearchRecord(notes=notes, tunings=tunings, disagreement=found)


@torch.no_grad()
def _logits(model: nn.Module, x_NCHW: Tensor) -> Tensor:
    logits: Tensor = model(x_NCHW[:PROBED])
    return logits


def _changes(job: Job, worker: Worker, before: Tensor) -> tuple[FlagRecord, ...]:
    """Is the judged model after the attacks what it was before, and what the attacks searched on?"""
    scale, after = probes.spread(before), _logits(job.model, job.x_NCHW)
    search = probes.largest_difference(_logits(worker.searcher, job.x_NCHW), after) / scale
    return flags.from_changes(probes.largest_difference(after, before) / scale, search)


def _reach(job: Job, finished: Mapping[str, runner.Finished]) -> dict[str, float]:
    """Per column, the longest perturbation that was judged, as a fraction of epsilon."""
    distances = {
        name: np.concatenate([r.verdicts.distance for stage in column.stages for r in stage.results])
        for name, column in finished.items()
        if any(stage.results for stage in column.stages)
    }
    return {name: float(found.max()) / job.request.threat.radius for name, found in distances.items()}


def _write(
    job: Job,
    finished: Mapping[str, runner.Finished],
    model_flags: tuple[FlagRecord, ...],
    evidence_folder: Path | None,
    command: str | None,
    folder: Path | None,
    search: SearchRecord | None = None,
) -> EvalResult:
    request = job.request
    checkpoint, data, threat, suite = summary.request_records(request)
    columns = {name: column.record for name, column in finished.items()}
    missing = tuple(column.id for column in request.suite.columns if column.id not in columns)
    labels = runner.labels(finished["clean"], request.data.n)
    record = None
    if evidence_folder is not None:
        record = evidence.write(
            evidence_folder,
            {name: column.stages for name, column in finished.items() if column.stages},
            labels,
            {
                "checkpoint": checkpoint.sha256,
                "data": data.fingerprint,
                "threat": str(request.threat),
                "request": request.key,
            },
        )
    closer_look = _stored_diagnosis(folder)
    found = (
        *model_flags,
        *flags.from_columns(columns, checkpoint.classes),
        *flags.from_reach(_reach(job, finished), request.threat.norm),
        *flags.from_record(checkpoint, data, columns["clean"]),
        *(flags.from_search(search) if search is not None else ()),
        *(flags.from_diagnosis(closer_look) if closer_look is not None else ()),
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
        diagnosis=closer_look,
        search=search,
        environment=environment(job.x_NCHW.device),
        labels_sha256=summary.labels_digest(labels),
        request=request.key,
        evidence=record,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if folder is not None:
        write_text(folder / RESULT_FILE, result.to_json())
    return result


def diagnosed(job: Job, result: EvalResult, folder: Path | None = None) -> EvalResult:
    """The result with a diagnosis and its flags; with a folder both are kept there.

    A diagnosis that the folder already holds is taken: it depends on nothing but the request.
    """
    found = _stored_diagnosis(folder) or closer.diagnose(job.worker(), seed=job.request.seed, fresh=job.fresh)
    others = (flag for flag in result.flags if flag.id not in flags.DIAGNOSIS)
    result = result.model_copy(
        update={"diagnosis": found, "flags": flags.distinct((*others, *flags.from_diagnosis(found)))}
    )
    if folder is not None:
        write_text(folder / DIAGNOSIS_FILE, found.model_dump_json(indent=1) + "\n")
        write_text(folder / RESULT_FILE, result.to_json())
    return result


def diagnosis(job: Job) -> DiagnosisRecord:
    """A closer look at the model and the attacks, under the job's threat model and seed."""
    return closer.diagnose(job.worker(), seed=job.request.seed, fresh=job.fresh)


def diagnosis_cost(job: Job) -> tuple[int, Cost, float]:
    """(examples, passes for each, seconds) at most, without the fresh process."""
    n, cost = min(closer.EXAMPLES, job.request.data.n), closer.cost()
    return n, cost, measure(job.model, job.x_NCHW[: min(n, 64)]).seconds(cost, n)


def _stored_diagnosis(folder: Path | None) -> DiagnosisRecord | None:
    """What an earlier command left in the run folder: its flags stay, whatever is asked now."""
    if folder is None or not (folder / DIAGNOSIS_FILE).is_file():
        return None
    try:
        return DiagnosisRecord.model_validate_json((folder / DIAGNOSIS_FILE).read_bytes())
    except ValidationError:
        return None


__all__ = ["Job", "diagnosed", "diagnosis", "diagnosis_cost", "estimate", "execute", "make_request"]
