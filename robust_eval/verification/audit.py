"""Attack examples of a result again, in pairs: with the row's own seed, and with a fresh one.

Own seed: whole units are repeated (:mod:`robust_eval.verification.repetition`). If their stored images come
out bit for bit, an example recorded as robust that breaks contradicts the record; one is a failure.

Fresh seeds: one, or two if the row's own run is not repeated exactly. The record, the repetition and the
fresh runs are runs of the same attacks. If all are honest, an example that is robust in one of them only is
so in each equally often. The audit fails if it is the record too often: the one-sided exact binomial test
gives p < 1%. How much honest seeds differ is thus measured on the same model, attacks and examples.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import numpy as np
import torch

from robust_eval.core.logits import logit_std, margin
from robust_eval.core.request import Request
from robust_eval.core.statistics import binomial_tail
from robust_eval.core.types import Bools, UnitResult, WorkUnit
from robust_eval.evaluation.attack_copy import AttackCopyConfig
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.judge import within_rounding
from robust_eval.evaluation.planning.units import stage_units
from robust_eval.evaluation.worker import Worker
from robust_eval.models import out_of_memory
from robust_eval.models.acceleration import compilation
from robust_eval.models.acceleration.tuning import Tuning
from robust_eval.results import EvalResult
from robust_eval.results.environment import environment
from robust_eval.results.evidence import Evidence
from robust_eval.results.verification_record import AuditRecord
from robust_eval.verification.audit_plan import AuditPlan
from robust_eval.verification.repetition import RepeatedColumn, Repetition, repeat

SIGNIFICANT = 0.01
_SCALE_IMAGES = 64


class _Auditor:
    """Runs units, each once, and counts passes."""

    def __init__(self, job: Job, config: AttackCopyConfig) -> None:
        self.worker: Worker = job.worker(config)
        self.forwards = self.backwards = 0
        self._scale = logit_std(out_of_memory.logits(job.model, job.x_NCHW[:_SCALE_IMAGES]))
        self._done: dict[str, UnitResult] = {}

    def run(self, unit: WorkUnit) -> UnitResult:
        if unit.key not in self._done:
            done = self.worker.run(unit)
            self.forwards, self.backwards = self.forwards + done.forwards, self.backwards + done.backwards
            self._done[unit.key] = done
        return self._done[unit.key]

    def near(self, done: UnitResult) -> Bools:
        """(broken,) whether an image is misclassified by no more than rounding."""
        if not len(done.evidence):
            return np.empty(0, dtype=np.bool_)
        y = torch.from_numpy(done.verdicts.labels[~done.verdicts.robust]).to(self.worker.y.device)
        images = torch.from_numpy(done.evidence).to(self.worker.x.device)
        margins = margin(out_of_memory.logits(self.worker.model, images), y)
        return within_rounding(margins, self._scale)


def audit(plan: AuditPlan, job: Job, result: EvalResult, evidence: Evidence) -> AuditRecord:
    """Run a plan; ``job`` holds the result's request, model and images, ``evidence`` its stored images."""
    start, device = time.perf_counter(), job.x_NCHW.device
    auditor = _Auditor(job, _recorded_config(result, device))
    with _threads(result.environment.threads, device):
        repeated = [_repeat(column, plan, auditor, evidence) for column in plan.columns]
        same_environment = result.environment == environment(device)
        exact = [column.exact(same_environment) for column in repeated]
        fresh = [_run_fresh(plan, request, auditor) for request in plan.fresh[: 1 if all(exact) else 2]]
    own = np.ones(len(plan.recorded), dtype=np.bool_)
    own[list(set().union(*(column.broken for column in repeated)))] = False
    contradicted = set().union(*(c.contradicting for c, e in zip(repeated, exact, strict=True) if e))
    runs = np.stack([plan.recorded, own, *fresh])[:, plan.chosen]
    alone = (runs & (runs.sum(0) == 1)).sum(1).tolist()
    p = binomial_tail(alone[0], sum(alone), Fraction(1, len(alone)))
    return AuditRecord(
        columns=tuple(column.column.id for column in plan.columns),
        seed=plan.seed,
        n=plan.robust,
        of=int(plan.recorded.sum()),
        broken_own=tuple(plan.chosen[runs[0] & ~runs[1]].tolist()),
        broken_fresh=tuple(plan.chosen[runs[0] & ~runs[2]].tolist()),
        contradicted=tuple(sorted(contradicted)),
        images=sum(column.images for column in repeated),
        images_equal=sum(column.equal for column in repeated),
        robust_alone=tuple(alone),
        p=p,
        passed=not contradicted and p >= SIGNIFICANT,
        forwards=auditor.forwards,
        backwards=auditor.backwards,
        seconds=round(time.perf_counter() - start, 3),
    )


def _repeat(column: Repetition, plan: AuditPlan, auditor: _Auditor, evidence: Evidence) -> RepeatedColumn:
    indices, images = evidence.broken(column.column.id)
    stored = dict(zip(indices.tolist(), images, strict=True))
    return repeat(column, plan.request, auditor.run, stored, auditor.near)


def _run_fresh(plan: AuditPlan, request: Request, auditor: _Auditor) -> Bools:
    """(n,) robust under the audited columns with a fresh seed; computed for the chosen examples only."""
    robust = np.ones(len(plan.recorded), dtype=np.bool_)
    for repetition in plan.columns:
        left: list[int] = plan.chosen.tolist()
        for stage in range(len(repetition.column.attacks)):
            for unit in stage_units(request, repetition.column, stage, left):
                done = auditor.run(unit)
                broken = done.verdicts.indices[~done.verdicts.robust]
                robust[broken[~auditor.near(done)]] = False
                left = sorted(set(left) - set(broken.tolist()))
    return robust


def _recorded_config(result: EvalResult, device: torch.device) -> AttackCopyConfig:
    """How the run called its attack copies: another batch size of the calls can change single verdicts."""
    recorded = {} if result.search is None else result.search.tunings
    tunings = {name: Tuning(**one.model_dump()) for name, one in recorded.items()}
    sizes = [size for one in tunings.values() for size in (one.rows, one.gradient_rows, one.near_rows)]
    compiled = any(one.compiled or one.gradient_compiled for one in tunings.values())
    if any(size is not None and size < 1 for size in sizes) or (
        compiled and compilation.unavailable_reason(device)
    ):
        return AttackCopyConfig()
    return AttackCopyConfig(tunings)


@contextmanager
def _threads(recorded: int, device: torch.device) -> Iterator[None]:
    """The recorded number of threads, which affects rounding on a CPU, if this machine has as many."""
    before = torch.get_num_threads()
    if device.type == "cpu" and 1 <= recorded <= (os.cpu_count() or 1):
        torch.set_num_threads(recorded)
    try:
        yield
    finally:
        torch.set_num_threads(before)
