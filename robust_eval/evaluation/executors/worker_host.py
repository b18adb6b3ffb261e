"""The runs that one worker has loaded, and what it is asked about them.

Lives in this process or in a Ray actor. A checkpoint is loaded once and stays on the device with its data
and its search copies until others need the room; images that several runs share are held once.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from robust_eval.core.errors import UserError
from robust_eval.core.request import Request
from robust_eval.core.types import WorkUnit
from robust_eval.evaluation import fresh_process, store
from robust_eval.evaluation.attack_copy import TUNING_FILE
from robust_eval.evaluation.checks import diagnosis
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.cascade import Finished
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.evaluation.run import Session
from robust_eval.results import DiagnosisRecord

KEEP = 4


class Host:
    """Every method takes the run's options first and loads what is not loaded."""

    def __init__(self, keep: int = KEEP) -> None:
        """``keep``: at most so many runs are held; the one that was not asked for longest goes first."""
        self._keep = keep
        self._jobs: dict[EvaluationOptions, Job] = {}
        self._sessions: dict[EvaluationOptions, Session] = {}

    def identify(self, options: EvaluationOptions) -> Request:
        """What the options ask for, found out by loading checkpoint and data."""
        return self._job(options).request

    def ready(
        self, options: EvaluationOptions, request: Request, tuning: str | None
    ) -> tuple[str | None, ModelReport, Tensor | None]:
        """How this run's copies are called (as ``tuning`` says, else measured), a look, the first logits."""
        session, tuning = self._open(options, request, tuning)
        return tuning, session.look(), None if session.answers is None else session.answers.cpu()

    def unit(self, options: EvaluationOptions, request: Request, tuning: str | None, unit: WorkUnit) -> bytes:
        """Do a unit; the result as :func:`robust_eval.evaluation.store.pack` writes it."""
        session, _ = self._open(options, request, tuning)
        return store.pack(unit.key, session.worker.run(unit))

    def look(
        self, options: EvaluationOptions, request: Request, tuning: str | None, clean: Finished
    ) -> ModelReport:
        """What the row says of the model, once the attacks are over."""
        session, _ = self._open(options, request, tuning)
        return session.look(clean)

    def diagnose(self, options: EvaluationOptions, request: Request, tuning: str | None) -> DiagnosisRecord:
        session, _ = self._open(options, request, tuning)
        ask = fresh_process.reloading(session.job, options).fresh
        return diagnosis.diagnose(session.worker, seed=request.seed, fresh=ask)

    def _job(self, options: EvaluationOptions) -> Job:
        if options in self._jobs:
            self._jobs[options] = self._jobs.pop(options)
            return self._jobs[options]
        while len(self._jobs) >= self._keep:
            oldest = next(iter(self._jobs))
            del self._jobs[oldest]
            self._sessions.pop(oldest, None)
        job = prepare(options)
        for other in self._jobs.values():
            same_images = other.request.data.fingerprint == job.request.data.fingerprint
            if same_images and other.x_NCHW.device == job.x_NCHW.device:
                job = replace(job, x_NCHW=other.x_NCHW, y_N=other.y_N)
                break
        self._jobs[options] = job
        return job

    def _open(
        self, options: EvaluationOptions, request: Request, tuning: str | None
    ) -> tuple[Session, str | None]:
        job = self._job(options)
        _check_same(job.request, request)
        if options in self._sessions:
            return self._sessions[options], tuning
        # One worker measures, all call their copies alike: a tuning changes verdicts by rounding.
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / TUNING_FILE
            if tuning is not None:
                file.write_text(tuning, encoding="utf-8")
            session = Session(job, Path(folder))
            tuning = file.read_text(encoding="utf-8") if file.exists() else None
        self._sessions[options] = session
        return session, tuning


def _check_same(here: Request, wanted: Request) -> None:
    if here.key == wanted.key:
        return
    ours, theirs = here.identity(), wanted.identity()
    differing = [name for name in theirs if ours.get(name) != theirs[name]]
    raise UserError(
        f"this worker sees another {' and '.join(differing) or 'request'} under the same names as the worker "
        "that opened the run. Give all nodes the same files and versions"
    )
