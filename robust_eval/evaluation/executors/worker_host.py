"""The jobs that one worker has loaded, in this process or in another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from robust_eval.core.errors import UserError
from robust_eval.core.float_images import Images
from robust_eval.core.request import Request
from robust_eval.core.types import Bools, UnitResult, WorkUnit
from robust_eval.evaluation import fresh_process
from robust_eval.evaluation.attack_copy import Log, no_log
from robust_eval.evaluation.checks import diagnosis
from robust_eval.evaluation.checks.second_judgement import JudgedImages
from robust_eval.evaluation.executors import LoadedJob, PreparedModel, Source
from robust_eval.evaluation.executors.shared_images import SharedImages
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.worker_count import WorkerPlan
from robust_eval.evaluation.prepare import prepare, prepare_again
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.evaluation.session import Session, first_report
from robust_eval.results import DiagnosisRecord, flags

KEEP = 4
"""Jobs that a worker keeps loaded."""


class WorkerHost:
    """Loads jobs and runs their units. Images that several jobs share are in memory once."""

    def __init__(
        self,
        keep: int = KEEP,
        log: Log = no_log,
        *,
        shared: SharedImages | None = None,
        plan: Callable[[Job], WorkerPlan | None] | None = None,
    ) -> None:
        """``keep``: number of jobs kept loaded; the least recently used one is dropped first.

        ``shared``: images that need not be loaded. ``plan``: chooses the number of local workers.
        """
        self._keep, self._log, self._shared, self._plan = keep, log, shared, plan
        self._jobs: dict[Source, Job] = {}
        self._sessions: dict[Source, Session] = {}
        self._seconds: dict[Source, dict[str, float]] = {}

    def load(self, source: Source) -> Request:
        return self._job(source).request

    def prepare(self, source: Source, request: Request, tuning: str | None, diagnose: bool) -> PreparedModel:
        job = self._job(source, request)
        with self._timed(source, "probes"):
            report = first_report(job)
        with self._timed(source, "tuning"):
            plan = None if self._plan is None else self._plan(job)
            if plan is not None:
                # What is measured for the attack copies holds for this number of threads.
                torch.set_num_threads(plan.threads)
            session = self._session(source, request, tuning)
        report = replace(report, seconds=self._seconds.pop(source))
        random = any(flag.id == flags.RANDOM_OUTPUTS for flag in report.flags)
        notes = [f"search: {note}" for note in session.notes]
        if diagnose:
            notes.append(f"diagnosis: {diagnosis.cost_text(job)}")
        return PreparedModel(
            session.config.stored, report, None if random else session.first_logits.cpu(), tuple(notes), plan
        )

    def unit(self, source: Source, request: Request, tuning: str | None, unit: WorkUnit) -> UnitResult:
        return self._session(source, request, tuning).worker.run(unit)

    def report(
        self,
        source: Source,
        request: Request,
        tuning: str | None,
        first: ModelReport,
        clean: Bools,
        found: JudgedImages,
    ) -> ModelReport:
        session = self._session(source, request, tuning)
        with self._timed(source, "checks"):
            report = session.report(first, clean, found)
        return replace(report, seconds={**first.seconds, "checks": self._seconds.pop(source)["checks"]})

    def diagnose(self, source: Source, request: Request, tuning: str | None) -> DiagnosisRecord:
        session = self._session(source, request, tuning)
        return diagnosis.diagnose(session.worker, seed=request.seed)

    def _job(self, source: Source, request: Request | None = None) -> Job:
        """The job of a source; ``request``: as the process found it that loaded the source first."""
        if source in self._jobs:
            self._jobs[source] = self._jobs.pop(source)
            return self._jobs[source]
        while len(self._jobs) >= self._keep:
            oldest = next(iter(self._jobs))
            del self._jobs[oldest]
            self._sessions.pop(oldest, None)
        if isinstance(source, LoadedJob):
            job = source.job
        elif request is None:
            fresh_process.start_server()
            with self._timed(source, "loading"):
                job = prepare(source)
        else:
            with self._timed(source, "loading"):
                job = prepare_again(source, request, self._shared_tensors(request))
        for other in self._jobs.values():
            same_images = other.request.data.fingerprint == job.request.data.fingerprint
            if same_images and other.x_NCHW.device == job.x_NCHW.device:
                job = replace(job, x_NCHW=other.x_NCHW, y_N=other.y_N)
                break
        self._jobs[source] = job
        return job

    @contextmanager
    def _timed(self, source: Source, part: str) -> Iterator[None]:
        """Measure the time of a part of the work for a source that is not attack."""
        start = time.perf_counter()
        yield
        self._seconds.setdefault(source, {})[part] = time.perf_counter() - start

    def _shared_tensors(self, request: Request) -> tuple[Images, Tensor] | None:
        shared = self._shared
        return shared.tensors() if shared and shared.fingerprint == request.data.fingerprint else None

    def _session(self, source: Source, request: Request, tuning: str | None) -> Session:
        job = self._job(source, request)
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
