"""What a search in reduced precision finds less than one in float32: measured on a sample of the run.

Both searches start from the same seed on the same images, so that they differ in arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from robust_eval import attacks
from robust_eval.core import request, seeds
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import FLOAT32, AttackSpec, WorkUnit
from robust_eval.evaluation import unit_loop
from robust_eval.evaluation.planning import units
from robust_eval.evaluation.store import Store
from robust_eval.results import DisagreementRecord

LEAST, MOST = 8, 64
"""Examples of the sample: a twentieth of those judged, within these limits. 64 in `full`: 320 verdicts."""
LONGEST = 250
"""Attacks of at most so many passes an image are repeated: those of ``full`` but the longest phases."""


def measure(
    request: Request, worker: unit_loop.Worker, store: Store, finished: Mapping[str, unit_loop.Finished]
) -> DisagreementRecord | None:
    """Repeat the first attack of each column on a sample in both precisions; None where all is float32."""
    sample = np.flatnonzero(finished[CLEAN].bits)[: sample_size(request.data.n)].tolist()
    chosen = repeated(request)
    if not chosen or not sample:
        return None
    weaker = stronger = 0
    for column, attack in chosen:
        low, high = (
            unit_loop.do(unit, worker, store).verdicts.robust
            for unit in _pair(request, column, attack, sample)
        )
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
    """How many of ``n`` examples: in float32 each costs several times what it costs the run."""
    return min(MOST, max(LEAST, n // 20))


def repeated(request: Request) -> list[tuple[str, AttackSpec]]:
    """(column, attack): each column's first attack, where it searched in less than float32 and is short."""
    found: dict[str, tuple[str, AttackSpec]] = {}
    for column in request.suite.columns:
        for attack in column.attacks[:1]:
            cost = attacks.cost(attack, request.checkpoint.classes)
            reduced = attacks.precision(attack, request.precision) != FLOAT32
            if reduced and cost.forwards + cost.backwards <= LONGEST:
                found.setdefault(attack.id, (column.id, attack))
    return list(found.values())


def _pair(request: Request, column: str, attack: AttackSpec, sample: list[int]) -> tuple[WorkUnit, WorkUnit]:
    """The same attack in the request's precision and in float32, under one seed."""
    seed = seeds.derive(request.seed, f"disagreement {attack.id}")
    low, high = (
        units.unit(replace(request, precision=precision), column, attack, 0, sample)
        for precision in (request.precision, FLOAT32)
    )
    return _reseeded(low, seed), _reseeded(high, seed)


def _reseeded(unit: WorkUnit, seed: int) -> WorkUnit:
    """Under a key of its own: the run's unit for the same work has another seed."""
    return replace(unit, key=request.digest([unit.key, seed])[:32], seed=seed)
