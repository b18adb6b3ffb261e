"""Measure on a sample of the run how many verdicts change if the attacks compute in reduced precision.

Both attacks start from the same seed on the same images, so that they differ in precision only.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robust_eval import attacks
from robust_eval.core import seeds
from robust_eval.core.request import Request, digest
from robust_eval.core.types import FLOAT32, AttackSpec, Bools, WorkUnit
from robust_eval.evaluation.planning import units
from robust_eval.evaluation.worker import Worker
from robust_eval.results import DisagreementRecord

MIN_IMAGES, MAX_IMAGES = 8, 64
"""Limits of the sample: a twentieth of the examples. 64 images give 320 verdicts in ``full``."""
MAX_PASSES = 250
"""Attacks with more passes per image are not repeated; in ``full``: SPSA, APGD-T, FAB-T and Square."""


def measure_disagreement(request: Request, worker: Worker, clean: Bools) -> DisagreementRecord | None:
    """Repeat the first attack of each column in both precisions; None if all attacks used float32.

    ``clean`` (n,): examples that are classified correctly without an attack.
    """
    sample: list[int] = np.flatnonzero(clean)[: sample_size(request.data.n)].tolist()
    chosen = repeated(request)
    if not chosen or not sample:
        return None
    weaker = stronger = 0
    for column, attack in chosen:
        low, high = (worker.run(unit).verdicts.robust for unit in _pair(request, column, attack, sample))
        weaker += int((low & ~high).sum())
        stronger += int((high & ~low).sum())
    return DisagreementRecord(
        images=len(sample),
        attacks=tuple(attack.id for _, attack in chosen),
        verdicts=len(sample) * len(chosen),
        weaker=weaker,
        stronger=stronger,
    )


def sample_size(n: int) -> int:
    """Size of the sample of ``n`` examples: in float32 each costs several times as much as in the run."""
    return min(MAX_IMAGES, max(MIN_IMAGES, n // 20))


def repeated(request: Request) -> list[tuple[str, AttackSpec]]:
    """(column, attack) for each column's first attack, if it used reduced precision and is short."""
    found: dict[str, tuple[str, AttackSpec]] = {}
    for column in request.suite.columns:
        for attack in column.attacks[:1]:
            cost = attacks.cost(attack, request.checkpoint.classes)
            reduced = attacks.precision(attack, request.precision) != FLOAT32
            if reduced and cost.forwards + cost.backwards <= MAX_PASSES:
                found.setdefault(attack.id, (column.id, attack))
    return list(found.values())


def _pair(request: Request, column: str, attack: AttackSpec, sample: list[int]) -> tuple[WorkUnit, WorkUnit]:
    """The same attack in the request's precision and in float32, with one seed."""
    seed = seeds.derive(request.seed, f"disagreement {attack.id}")
    low, high = (
        units.make_unit(replace(request, precision=precision), column, attack, 0, sample)
        for precision in (request.precision, FLOAT32)
    )
    return _reseeded(low, seed), _reseeded(high, seed)


def _reseeded(unit: WorkUnit, seed: int) -> WorkUnit:
    """With its own key: the run's unit for the same work has another seed."""
    return replace(unit, key=digest([unit.key, seed])[:32], seed=seed)
