"""Attack examples of a result again, in pairs: with the row's own seed, and with a fresh one.

Own seed: whole units are repeated (:mod:`robust_eval.verification.repetition`). If their stored images come
out bit for bit, an example recorded as robust that breaks contradicts the record; one is a failure.

Fresh seed: the record, the repetition and the fresh run are three runs of the same attacks. If all are
honest, an example that is robust in one of them only is so in each equally often. The audit fails if it
is the record too often: the one-sided exact binomial test with 1/3 gives p < 1%. How much two honest seeds
differ is thus measured on the same model, attacks and examples.
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
from robust_eval.core.types import Bools, Ints, UnitResult, WorkUnit
from robust_eval.evaluation.attack_copy import AttackCopyConfig
from robust_eval.evaluation.job import Job
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
from robust_eval.verification.predictions import ROUNDING
from robust_eval.verification.repetition import repeat

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
        near: Bools = (margins.abs() <= ROUNDING * self._scale).cpu().numpy()
        return near


def audit(plan: AuditPlan, job: Job, result: EvalResult, evidence: Evidence) -> AuditRecord:
    """Run a plan; ``job`` holds the result's request, model and images, ``evidence`` its stored images."""
    start, device = time.perf_counter(), job.x_NCHW.device
    auditor = _Auditor(job, _recorded_config(result, device))
    own, contradicted, images, equal = plan.recorded | True, set[int](), 0, 0
    with _threads(result.environment.threads, device):
        for column in plan.columns:
            stored = dict(zip(*_stored(evidence, column.column.id), strict=True))
            found = repeat(column, plan.request, auditor.run, stored, auditor.near)
            own[list(found.broken)] = False
            contradicted |= found.contradicted(result.environment == environment(device))
            images, equal = images + found.images, equal + found.equal
        fresh = _fresh(plan, plan.fresh, auditor)
    recorded, own, fresh = (bits[plan.chosen] for bits in (plan.recorded, own, fresh))
    alone = [int((a & ~b & ~c).sum()) for a, b, c in _each_and_others(recorded, own, fresh)]
    p = binomial_tail(alone[0], sum(alone), Fraction(1, 3))
    return AuditRecord(
        columns=tuple(column.column.id for column in plan.columns),
        seed=plan.seed,
        n=plan.robust,
        of=int(plan.recorded.sum()),
        broken_own=_indices(plan.chosen, recorded & ~own),
        broken_fresh=_indices(plan.chosen, recorded & ~fresh),
        contradicted=tuple(sorted(contradicted)),
        images=images,
        images_equal=equal,
        robust_alone=(alone[0], alone[1], alone[2]),
        p=p,
        passed=not contradicted and p >= SIGNIFICANT,
        forwards=auditor.forwards,
        backwards=auditor.backwards,
        seconds=round(time.perf_counter() - start, 3),
    )


def _fresh(plan: AuditPlan, request: Request, auditor: _Auditor) -> Bools:
    """(n,) robust under the audited columns with the fresh seed; computed for the chosen examples only."""
    robust = plan.recorded | True
    for repetition in plan.columns:
        left: list[int] = plan.chosen.tolist()
        for stage in range(len(repetition.column.attacks)):
            for unit in stage_units(request, repetition.column, stage, left):
                done = auditor.run(unit)
                broken = done.verdicts.indices[~done.verdicts.robust]
                robust[broken[~auditor.near(done)]] = False
                left = sorted(set(left) - set(broken.tolist()))
    return robust


def _each_and_others(a: Bools, b: Bools, c: Bools) -> tuple[tuple[Bools, Bools, Bools], ...]:
    return (a, b, c), (b, a, c), (c, a, b)


def _indices(chosen: Ints, which: Bools) -> tuple[int, ...]:
    return tuple(chosen[which].tolist())


def _stored(evidence: Evidence, column: str) -> tuple[list[int], list[np.ndarray]]:
    indices, images = evidence.broken(column)
    return indices.tolist(), list(images)


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
