"""What can be done now, and what has been: the bookkeeping of one request, apart from who does the work.

Clean predictions come first; every column is then a chain of waves, each on the survivors of the one
before. Columns do not wait for each other, so that whoever has workers to feed has several waves open.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robust_eval import attacks
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import AttackSpec, Bools, Column, Ints, UnitResult, WorkUnit
from robust_eval.evaluation.planning.units import block, clean_units, stage_units
from robust_eval.results import ColumnRecord
from robust_eval.results.summary import Stage, attack_column, clean_bits, clean_column, column_bits


@dataclass(frozen=True)
class Finished:
    """A column with all its units, and what the evidence file keeps of it."""

    record: ColumnRecord
    bits: Bools
    stages: tuple[Stage, ...]
    clean: tuple[UnitResult, ...] = ()
    units: tuple[tuple[str, ...], ...] = ()
    """Keys of each stage's units."""

    def thin(self) -> Finished:
        """Record and bits alone, to travel lightly."""
        return Finished(self.record, self.bits, ())


@dataclass(frozen=True)
class StageUnits:
    """One attack of one column (or the clean pass) on all its survivors: units that may run in any order."""

    column: Column
    stage: int
    n_attacked: int
    units: tuple[WorkUnit, ...]

    def remaining_cost(self, request: Request) -> float:
        """Passes of one unit after the other from this wave to the end of its column: its critical path."""
        classes = request.checkpoint.classes
        costs = [attacks.cost(attack, classes) for attack in self.column.attacks[self.stage :]]
        longest = max((len(unit.indices) for unit in self.units), default=0)
        return longest * float(sum(cost.forwards + cost.backwards for cost in costs))


@dataclass
class _Chain:
    """A column under way."""

    column: Column
    stages: list[Stage] = field(default_factory=list)
    units: list[tuple[str, ...]] = field(default_factory=list)
    wave: StageUnits | None = None
    missing: set[str] = field(default_factory=set)


class CascadeState:
    """Give results in any order; the verdicts are the same."""

    def __init__(self, request: Request, only: int | None = None) -> None:
        """``only``: one of the request's blocks; the others' examples then count as not robust."""
        self.request, self.only = request, only
        self.results: dict[str, UnitResult] = {}
        self.finished: dict[str, Finished] = {}
        self._chains: list[_Chain] = []
        self._clean = np.zeros(request.data.n, dtype=np.bool_)

    @property
    def done(self) -> bool:
        return len(self.finished) == len({CLEAN, *(column.id for column in self.request.suite.columns)})

    def open(self) -> list[StageUnits]:
        """The first wave: clean predictions."""
        title = next(
            (column for column in self.request.suite.columns if column.id == CLEAN),
            Column(CLEAN, "Clean", ()),
        )
        n = self.request.data.n if self.only is None else len(block(self.request, self.only))
        chain = _Chain(title)
        self._chains = [chain]
        return [self._begin(chain, StageUnits(title, 0, n, tuple(clean_units(self.request, self.only))))]

    def take(self, key: str, result: UnitResult) -> list[StageUnits]:
        """Note a unit's result; the waves that this opens. A wave may hold units that are done already."""
        self.results[key] = result
        opened: list[StageUnits] = []
        for chain in list(self._chains):
            if key in chain.missing:
                chain.missing.discard(key)
                opened += self._advance(chain)
        return opened

    def _begin(self, chain: _Chain, wave: StageUnits) -> StageUnits:
        chain.wave = wave
        chain.missing = {unit.key for unit in wave.units} - self.results.keys()
        return wave

    def _advance(self, chain: _Chain) -> list[StageUnits]:
        """Close the chain's wave if it is complete, and what follows from that."""
        opened: list[StageUnits] = []
        while not chain.missing and chain.wave is not None:
            wave = chain.wave
            results = tuple(self.results[unit.key] for unit in wave.units)
            chain.units.append(tuple(unit.key for unit in wave.units))
            if wave.column.id == CLEAN:
                self._close(chain, results)
                for column in self.request.suite.columns:
                    if column.id != CLEAN:
                        following = _Chain(column)
                        self._chains.append(following)
                        opened.append(self._stage(following))
                        opened += self._advance(following)
                return opened
            chain.stages.append(_stage(self.request, wave.column.attacks[wave.stage], results))
            if len(chain.stages) == len(chain.column.attacks):
                self._close(chain, ())
            else:
                opened.append(self._stage(chain))
        return opened

    def _stage(self, chain: _Chain) -> StageUnits:
        survivors: list[int] = np.flatnonzero(column_bits(self._clean, chain.stages)).tolist()
        number = len(chain.stages)
        units = stage_units(self.request, chain.column, number, survivors)
        return self._begin(chain, StageUnits(chain.column, number, len(survivors), tuple(units)))

    def _close(self, chain: _Chain, clean: tuple[UnitResult, ...]) -> None:
        column, stages = chain.column, tuple(chain.stages)
        if column.id == CLEAN:
            self._clean = clean_bits(clean, self.request.data.n)
            record, bits = clean_column(column.title, self._clean, clean), self._clean
        else:
            bits = column_bits(self._clean, stages)
            record = attack_column(column, bits, stages)
        self.finished[column.id] = Finished(record, bits, stages, clean, () if clean else tuple(chain.units))
        self._chains.remove(chain)
        chain.wave = None


def _stage(request: Request, attack: AttackSpec, results: tuple[UnitResult, ...]) -> Stage:
    return Stage(
        attack,
        library=request.library(attack.family),
        citation=attacks.family(attack.family).CITATION,
        note=attacks.note(attack, request.checkpoint.classes),
        results=results,
    )


def labels(finished: Finished, n: int) -> Ints:
    """The slice's labels as the clean pass saw them, (n,)."""
    values = np.zeros(n, dtype=np.int64)
    for result in finished.clean:
        values[result.verdicts.indices] = result.verdicts.labels
    return values
