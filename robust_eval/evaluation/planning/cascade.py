"""Which units of a request can be run now, and which columns are finished.

Clean predictions come first. Each column is then a cascade of stages, each on the survivors of the stage
before. Columns are independent of each other, so that units of several columns can be available at the same
time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robust_eval import attacks
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import AttackSpec, Bools, Column, Ints, UnitResult, WorkUnit
from robust_eval.evaluation.planning.units import clean_units, shard_examples, stage_units
from robust_eval.results import ColumnRecord
from robust_eval.results.summary import Stage, attack_column, clean_bits, clean_column, column_bits


@dataclass(frozen=True)
class FinishedColumn:
    """A column whose units are all done."""

    record: ColumnRecord
    bits: Bools
    """(n,): robust under this column."""
    stages: tuple[Stage, ...]
    clean: tuple[UnitResult, ...] = ()
    """Results of the clean column."""
    units: tuple[tuple[str, ...], ...] = ()
    """Keys of each stage's units."""


@dataclass(frozen=True)
class StageUnits:
    """One stage of a column (or the clean pass) on all its survivors: units that may run in any order."""

    column: Column
    stage: int
    n_attacked: int
    units: tuple[WorkUnit, ...]

    @property
    def attack(self) -> str:
        """Id of the stage's attack, or ``clean``."""
        return self.column.attacks[self.stage].id if self.column.attacks else CLEAN

    def remaining_cost(self, request: Request) -> float:
        """Passes of the critical path from this stage to the end of its column."""
        classes = request.checkpoint.classes
        costs = [attacks.cost(attack, classes) for attack in self.column.attacks[self.stage :]]
        longest = max((len(unit.indices) for unit in self.units), default=0)
        return longest * float(sum(cost.forwards + cost.backwards for cost in costs))


@dataclass
class _OpenColumn:
    """A column that is not finished."""

    column: Column
    stages: list[Stage] = field(default_factory=list)
    units: list[tuple[str, ...]] = field(default_factory=list)
    current: StageUnits | None = None
    missing: set[str] = field(default_factory=set)


class CascadeState:
    """The unit results of one request so far.

    The order in which results arrive does not change the verdicts.
    """

    def __init__(self, request: Request, shard: int | None = None) -> None:
        """``shard``: only this shard of the examples, counted from 0; all others count as not robust."""
        self.request, self.shard = request, shard
        self.results: dict[str, UnitResult] = {}
        self.finished: dict[str, FinishedColumn] = {}
        self._open: list[_OpenColumn] = []
        self._clean = np.zeros(request.data.n, dtype=np.bool_)

    @property
    def done(self) -> bool:
        """Whether all columns are finished."""
        return len(self.finished) == self.n_columns

    @property
    def n_columns(self) -> int:
        """Number of columns, the clean one included."""
        return len({CLEAN, *(column.id for column in self.request.suite.columns)})

    def start(self) -> list[StageUnits]:
        """The first stage: clean predictions."""
        column = next(
            (column for column in self.request.suite.columns if column.id == CLEAN),
            Column(CLEAN, "Clean", ()),
        )
        units = tuple(clean_units(self.request, self.shard))
        n = len(shard_examples(self.request, self.shard))
        self._open = [_OpenColumn(column)]
        return [self._begin(self._open[0], StageUnits(column, 0, n, units))]

    def add(self, key: str, result: UnitResult) -> list[StageUnits]:
        """Record a unit's result and return the stages that can now start.

        A returned stage may contain units that are already done.
        """
        self.results[key] = result
        started: list[StageUnits] = []
        for column in list(self._open):
            if key in column.missing:
                column.missing.discard(key)
                started += self._advance(column)
        return started

    def _begin(self, column: _OpenColumn, stage: StageUnits) -> StageUnits:
        column.current = stage
        column.missing = {unit.key for unit in stage.units} - self.results.keys()
        return stage

    def _advance(self, column: _OpenColumn) -> list[StageUnits]:
        """Finish the current stage if all its units are done, and start what follows."""
        started: list[StageUnits] = []
        while not column.missing and column.current is not None:
            stage = column.current
            results = tuple(self.results[unit.key] for unit in stage.units)
            column.units.append(tuple(unit.key for unit in stage.units))
            if stage.column.id == CLEAN:
                self._finish(column, results)
                return [*started, *self._start_attacks()]
            column.stages.append(_stage(self.request, stage.column.attacks[stage.stage], results))
            if len(column.stages) == len(column.column.attacks):
                self._finish(column, ())
            else:
                started.append(self._next_stage(column))
        return started

    def _start_attacks(self) -> list[StageUnits]:
        started: list[StageUnits] = []
        for column in self.request.suite.columns:
            if column.id != CLEAN:
                opened = _OpenColumn(column)
                self._open.append(opened)
                started.append(self._next_stage(opened))
                started += self._advance(opened)
        return started

    def _next_stage(self, column: _OpenColumn) -> StageUnits:
        survivors: list[int] = np.flatnonzero(column_bits(self._clean, column.stages)).tolist()
        number = len(column.stages)
        units = stage_units(self.request, column.column, number, survivors)
        return self._begin(column, StageUnits(column.column, number, len(survivors), tuple(units)))

    def _finish(self, opened: _OpenColumn, clean: tuple[UnitResult, ...]) -> None:
        column, stages = opened.column, tuple(opened.stages)
        if column.id == CLEAN:
            self._clean = clean_bits(clean, self.request.data.n)
            record, bits = clean_column(column.title, self._clean, clean), self._clean
        else:
            bits = column_bits(self._clean, stages)
            record = attack_column(column, bits, stages)
        units = () if clean else tuple(opened.units)
        self.finished[column.id] = FinishedColumn(record, bits, stages, clean, units)
        self._open.remove(opened)
        opened.current = None


def _stage(request: Request, attack: AttackSpec, results: tuple[UnitResult, ...]) -> Stage:
    return Stage(
        attack,
        library=request.library(attack.family),
        citation=attacks.family(attack.family).CITATION,
        note=attacks.note(attack, request.checkpoint.classes),
        results=results,
    )


def labels(finished: FinishedColumn, n: int) -> Ints:
    """Labels (n,) as recorded by the clean column."""
    values = np.zeros(n, dtype=np.int64)
    for result in finished.clean:
        values[result.verdicts.indices] = result.verdicts.labels
    return values
