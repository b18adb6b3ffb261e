"""One request with one worker, one unit after the other: a column at a time, in the suite's order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from robust_eval.core.request import Request
from robust_eval.core.types import UnitResult, WorkUnit
from robust_eval.evaluation.display import Display
from robust_eval.evaluation.planning.cascade import CascadeState, Finished, labels
from robust_eval.evaluation.store import Store


class Worker(Protocol):
    def run(self, unit: WorkUnit) -> UnitResult: ...


def run(
    request: Request, worker: Worker, store: Store, display: Display, only: int | None = None
) -> Iterator[tuple[str, Finished]]:
    """Yield each column as it is finished. Stored units are not done again; new ones are stored at once.

    ``only``: one of the request's blocks alone.
    """
    waves = CascadeState(request, only)
    told: set[str] = set()
    open_waves = waves.open()
    while open_waves:
        wave = open_waves.pop(0)
        display.stage(wave.column, wave.stage, wave.n_attacked)
        following = []
        for unit in wave.units:
            stored = waves.results.get(unit.key) or store.get(unit.key)
            result = stored or do(unit, worker, store)
            display.unit(unit, result, stored=stored is not None)
            if unit.key not in waves.results:
                following += waves.take(unit.key, result)
        # A column's next attack before the next column's first.
        open_waves = following + open_waves
        for name in [name for name in waves.finished if name not in told]:
            told.add(name)
            yield name, waves.finished[name]


def do(unit: WorkUnit, worker: Worker, store: Store) -> UnitResult:
    """A unit's result: from the store, or made and stored."""
    result = store.get(unit.key)
    if result is None:
        result = worker.run(unit)
        store.put(unit.key, result)
    return result


__all__ = ["Display", "Finished", "Worker", "do", "labels", "run"]
