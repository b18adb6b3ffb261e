"""A request and a host whose verdicts are known in advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from robust_eval.core.request import Request
from robust_eval.core.threat import parse_threat
from robust_eval.core.types import (
    Architecture,
    Bools,
    CheckpointRef,
    Normalisation,
    Slice,
    UnitResult,
    Verdicts,
    WorkUnit,
)
from robust_eval.evaluation.checks.second_judgement import JudgedImages
from robust_eval.evaluation.executors import PreparedModel, Source
from robust_eval.evaluation.executors.display import SilentDisplay
from robust_eval.evaluation.executors.local import LocalExecutor
from robust_eval.evaluation.executors.run_spec import RunSpec
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.executors.scheduler import Scheduler
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.cascade import FinishedColumn
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.results import DiagnosisRecord
from robust_eval.results.environment import environment

# Attack id to the examples that it breaks, of ten; the model misclassifies example 9 without an attack.
BREAKS = {"fgsm": {0}, "pgd-20": {0, 1}, "apgd-ce": {1, 2}, "apgd-t": {3}, "fab-t": set[int](), "square": {4}}


def make_request(**changes: object) -> Request:
    checkpoint = CheckpointRef("m.pt", "ab" * 32, Architecture("lenet"), 10, Normalisation("none"), "foreign")
    request = Request(
        checkpoint=checkpoint,
        data=Slice("digits", "test", 10, "cd" * 32, tuple("0123456789"), "stored"),
        threat=parse_threat("Linf", "8/255"),
        suite=suites.load("full"),
        batch_size=4,
        seed=0,
        libraries=tuple((name, "1") for name in ("fgsm", "pgd", "cw-linf", "spsa", "autoattack")),
    )
    return replace(request, **changes)  # type: ignore[arg-type]


class ScriptedHost:
    """A host whose attacks break the examples listed in :data:`BREAKS`; stores the units that it ran."""

    def __init__(self, *requests: Request) -> None:
        self.requests = requests
        self.units: list[WorkUnit] = []

    def load(self, source: Source) -> Request:
        assert isinstance(source, EvaluationOptions)
        return self.requests[source.seed]

    def prepare(self, source: Source, request: Request, tuning: str | None, diagnose: bool) -> PreparedModel:
        return PreparedModel(None, self._report(), None)

    def unit(self, source: Source, request: Request, tuning: str | None, unit: WorkUnit) -> UnitResult:
        return self.run(unit)

    def run(self, unit: WorkUnit) -> UnitResult:
        self.units.append(unit)
        indices = np.array(unit.indices)
        broken = {9} if unit.attack is None else BREAKS.get(unit.attack.id, set())
        robust = np.array([int(index) not in broken for index in indices])
        yes = np.ones(len(indices), dtype=bool)
        verdicts = Verdicts(indices, indices, indices, indices * 0.0, yes, yes, yes, robust)
        evidence = np.full((int((~robust).sum()), 1, 1, 1), 0.5, dtype=np.float32)
        return UnitResult(verdicts, evidence, 2 * len(indices), len(indices), 0.5)

    def report(
        self,
        source: Source,
        request: Request,
        tuning: str | None,
        first: ModelReport,
        clean: Bools,
        found: JudgedImages,
    ) -> ModelReport:
        assert first.search is None
        return self._report()

    def diagnose(self, source: Source, request: Request, tuning: str | None) -> DiagnosisRecord:
        raise AssertionError("no diagnosis was requested")

    @staticmethod
    def _report() -> ModelReport:
        return ModelReport((), environment(torch.device("cpu")))


def run_scripted(host: ScriptedHost, folder: Path | None = None) -> list[Run]:
    """Run the host's requests in one process; ``folder``: run folder of a single request."""
    specs = [
        RunSpec(source=EvaluationOptions(seed=number), name="m.pt", folder=lambda _request: folder)
        for number in range(len(host.requests))
    ]
    return Scheduler(specs, LocalExecutor(host), SilentDisplay()).work()


def finished_columns(runs: Sequence[Run]) -> dict[str, FinishedColumn]:
    """The columns of a single run."""
    (run,) = runs
    assert run.running is not None
    assert not run.failures
    return run.running.cascade.finished
