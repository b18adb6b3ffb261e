"""Waves of work: clean predictions, then every column's cascade on the survivors of the stage before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from robust_eval import attacks
from robust_eval.core.records import AttackSpec, Bools, Column, Ints, UnitResult, WorkUnit
from robust_eval.plan import CLEAN, Request, clean_units, stage_units
from robust_eval.schema import ColumnRecord
from robust_eval.store import Store
from robust_eval.summary import Stage, attack_column, clean_bits, clean_column, column_bits


class Worker(Protocol):
    def run(self, unit: WorkUnit) -> UnitResult: ...


class Display(Protocol):
    """Who is told. Called in the order of the work; must not fail."""

    def stage(self, column: Column, stage: int, n_attacked: int) -> None: ...
    def unit(self, unit: WorkUnit, result: UnitResult, *, stored: bool) -> None: ...


@dataclass(frozen=True)
class Finished:
    """A column with all its units, and what the evidence file keeps of it."""

    record: ColumnRecord
    bits: Bools
    stages: tuple[Stage, ...]
    clean: tuple[UnitResult, ...] = ()


def run(request: Request, worker: Worker, store: Store, display: Display) -> Iterator[tuple[str, Finished]]:
    """Yield each column as it is finished. Stored units are not done again; new ones are stored at once."""

    def wave(units: Iterable[WorkUnit]) -> tuple[UnitResult, ...]:
        results = []
        for unit in units:
            stored = store.get(unit.key)
            result = stored or do(unit, worker, store)
            display.unit(unit, result, stored=stored is not None)
            results.append(result)
        return tuple(results)

    clean_title = next((c for c in request.suite.columns if c.id == CLEAN), Column(CLEAN, "Clean", ()))
    display.stage(clean_title, 0, request.data.n)
    clean_results = wave(clean_units(request))
    clean = clean_bits(clean_results, request.data.n)
    finished = Finished(clean_column(clean_title.title, clean, clean_results), clean, (), clean_results)
    yield CLEAN, finished

    for column in request.suite.columns:
        if column.id == CLEAN:
            continue
        stages: list[Stage] = []
        for number, attack in enumerate(column.attacks):
            survivors = _indices(column_bits(clean, stages))
            display.stage(column, number, len(survivors))
            results = wave(stage_units(request, column, number, survivors))
            stages.append(_stage(request, attack, results))
        bits = column_bits(clean, stages)
        finished = Finished(attack_column(column, bits, stages), bits, tuple(stages))
        yield column.id, finished


def _stage(request: Request, attack: AttackSpec, results: tuple[UnitResult, ...]) -> Stage:
    return Stage(
        attack,
        library=request.library(attack.family),
        citation=attacks.family(attack.family).CITATION,
        note=attacks.note(attack, request.checkpoint.classes),
        results=results,
    )


def do(unit: WorkUnit, worker: Worker, store: Store) -> UnitResult:
    """A unit's result: from the store, or made and stored."""
    result = store.get(unit.key)
    if result is None:
        result = worker.run(unit)
        store.put(unit.key, result)
    return result


def _indices(bits: Bools) -> Sequence[int]:
    indices: list[int] = np.flatnonzero(bits).tolist()
    return indices


def labels(finished: Finished, n: int) -> Ints:
    """The slice's labels as the clean pass saw them, (n,)."""
    values = np.zeros(n, dtype=np.int64)
    for result in finished.clean:
        values[result.verdicts.indices] = result.verdicts.labels
    return values
