"""The jobs that one worker has loaded, in this process or in a Ray actor."""

from __future__ import annotations

from dataclasses import replace

from robust_eval.core.errors import UserError
from robust_eval.core.request import Request
from robust_eval.core.types import Bools, UnitResult, WorkUnit
from robust_eval.evaluation import fresh_process
from robust_eval.evaluation.attack_copy import Log, no_log
from robust_eval.evaluation.checks import diagnosis
from robust_eval.evaluation.checks.second_judgement import JudgedImages
from robust_eval.evaluation.executors import LoadedJob, PreparedModel, Source
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.evaluation.session import Session
from robust_eval.results import DiagnosisRecord

KEEP = 4
"""Jobs that a worker keeps loaded."""


class WorkerHost:
    """Loads jobs and runs their units. Images that several jobs share are in memory once."""

    def __init__(self, keep: int = KEEP, log: Log = no_log) -> None:
        """``keep``: number of jobs kept loaded; the least recently used one is dropped first."""
        self._keep, self._log = keep, log
        self._jobs: dict[Source, Job] = {}
        self._sessions: dict[Source, Session] = {}

    def load(self, source: Source) -> Request:
        return self._job(source).request

    def prepare(self, source: Source, request: Request, tuning: str | None, diagnose: bool) -> PreparedModel:
        session = self._session(source, request, tuning)
        logits = session.first_logits
        notes = [f"search: {note}" for note in session.notes]
        if diagnose:
            notes.append(f"diagnosis: {diagnosis.cost_text(session.job)}")
        return PreparedModel(
            session.config.stored,
            session.first_report(),
            None if logits is None else logits.cpu(),
            tuple(notes),
        )

    def unit(self, source: Source, request: Request, tuning: str | None, unit: WorkUnit) -> UnitResult:
        return self._session(source, request, tuning).worker.run(unit)

    def report(
        self, source: Source, request: Request, tuning: str | None, clean: Bools, found: JudgedImages
    ) -> ModelReport:
        return self._session(source, request, tuning).report(clean, found)

    def diagnose(self, source: Source, request: Request, tuning: str | None) -> DiagnosisRecord:
        session = self._session(source, request, tuning)
        return diagnosis.diagnose(session.worker, seed=request.seed)

    def _job(self, source: Source) -> Job:
        if source in self._jobs:
            self._jobs[source] = self._jobs.pop(source)
            return self._jobs[source]
        while len(self._jobs) >= self._keep:
            oldest = next(iter(self._jobs))
            del self._jobs[oldest]
            self._sessions.pop(oldest, None)
        if isinstance(source, LoadedJob):
            job = source.job
        else:
            fresh_process.start_server()
            job = prepare(source)
        for other in self._jobs.values():
            same_images = other.request.data.fingerprint == job.request.data.fingerprint
            if same_images and other.x_NCHW.device == job.x_NCHW.device:
                job = replace(job, x_NCHW=other.x_NCHW, y_N=other.y_N)
                break
        self._jobs[source] = job
        return job

    def _session(self, source: Source, request: Request, tuning: str | None) -> Session:
        job = self._job(source)
        _check_same(job.request, request)
        if source not in self._sessions:
            self._sessions[source] = Session(job, tuning, self._log)
        return self._sessions[source]


def _check_same(own: Request, wanted: Request) -> None:
    """Raise UserError if this worker's files or libraries give another request than the run's."""
    if own.key == wanted.key:
        return
    ours, theirs = own.identity(), wanted.identity()
    differing = [name for name in theirs if ours.get(name) != theirs[name]]
    raise UserError(
        f"this worker loads another {' and '.join(differing) or 'request'} under the same names as the "
        "worker that opened the run. Give all nodes the same files and versions"
    )
