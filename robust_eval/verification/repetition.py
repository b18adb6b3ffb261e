"""Repeat whole units of a result with its own seed: the same attacks on the same batches.

An attack draws its random starts for a batch, so that a verdict can only be repeated with the whole unit that
it was computed in. Which examples entered a later attack of a cascade follows from the record if no attack
before it, or none from it on, broke an example; otherwise the attacks before it are repeated on all examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from robust_eval import attacks
from robust_eval.core.request import Request
from robust_eval.core.types import Bools, Column, Cost, Ints, UnitResult, WorkUnit
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.evaluation.planning.units import stage_units
from robust_eval.results import ColumnRecord

Run = Callable[[WorkUnit], UnitResult]


ENOUGH_IMAGES = 20
"""Stored images of a column that, all repeated bit for bit, show that its attacks are repeated exactly."""
EQUAL_SHARE = 0.95
"""Share of stored images that shows the same in the recorded environment; an edited image must not matter."""
EDIT = 1e-6
"""Largest difference of pixels at which an image counts as repeated in the recorded environment: edits of the
last digits of stored images must not disable the exact audit."""


@dataclass
class RepeatedColumn:
    """A column of a result, as its repeated units broke it."""

    robust: Bools
    """(n,) as recorded."""
    broken: set[int] = field(default_factory=set)
    """Examples that were broken, by more than rounding."""
    images: int = 0
    """Examples that were broken and have a stored image."""
    equal: int = 0
    """Those whose image is the stored one, bit for bit."""
    close: int = 0
    """Those whose image differs from the stored one by no more than EDIT."""

    def exact(self, same_environment: bool) -> bool:
        """Whether the attacks were repeated exactly, as far as the stored images show.

        In the recorded environment nearly all of them must come out, and in another one all of at least
        ENOUGH_IMAGES, bit for bit: on another processor, a few can be the same by chance.
        """
        if same_environment:
            return self.close >= EQUAL_SHARE * self.images
        return self.equal == self.images >= ENOUGH_IMAGES

    @property
    def contradicting(self) -> set[int]:
        """Examples recorded as robust that were broken."""
        return {index for index in self.broken if self.robust[index]}


@dataclass(frozen=True)
class Repetition:
    """What is repeated of one column."""

    column: Column
    record: ColumnRecord
    clean: Bools
    """(n,) correct without an attack."""
    chosen: Ints
    """Examples whose units are repeated."""

    def entered(self, stage: int) -> list[int] | None:
        """The examples that a stage attacked, as far as the record determines them."""
        broken = [attack.n_broken for attack in self.record.attacks]
        if not sum(broken[:stage]):
            return _indices(self.clean)
        return None if sum(broken[stage:]) else _indices(parse_bits(self.record.robust_bits))

    def stages(self, request: Request, broken: set[int]) -> Iterator[list[WorkUnit]]:
        """The units to run of each stage; ``broken`` must hold the examples that the stages before broke."""
        left = _indices(self.clean)
        for stage in range(len(self.column.attacks)):
            entered = self.entered(stage)
            left = [index for index in left if index not in broken] if entered is None else entered
            units = stage_units(request, self.column, stage, left)
            last = stage + 1 == len(self.column.attacks)
            if last or self.entered(stage + 1) is not None:
                units = [unit for unit in units if np.isin(unit.indices, self.chosen).any()]
            yield units

    def cost(self, request: Request) -> Cost:
        """Passes of :meth:`stages` if nothing breaks; more than will be needed."""
        total = Cost(0, 0)
        for attack, units in zip(self.column.attacks, self.stages(request, set()), strict=True):
            one = attacks.cost(attack, request.checkpoint.classes)
            images = sum(len(unit.indices) for unit in units)
            total += Cost(one.forwards * images, one.backwards * images)
        return total


def _indices(bits: Bools) -> list[int]:
    found: list[int] = np.flatnonzero(bits).tolist()
    return found


def repeat(
    plan: Repetition,
    request: Request,
    run: Run,
    stored: Mapping[int, NDArray[np.float32]],
    near: Callable[[UnitResult], Bools],
) -> RepeatedColumn:
    """Run the units of a repetition.

    ``stored``: the evidence of the column, by example. ``near``: which broken examples of a unit are decided
    by rounding.
    """
    found = RepeatedColumn(parse_bits(plan.record.robust_bits))
    broken: set[int] = set()
    for units in plan.stages(request, broken):
        for unit in units:
            done = run(unit)
            indices = done.verdicts.indices[~done.verdicts.robust]
            broken.update(indices.tolist())
            found.broken.update(indices[~near(done)].tolist())
            for index, image in zip(indices.tolist(), done.evidence, strict=True):
                if index in stored:
                    found.images += 1
                    found.equal += int(np.array_equal(image, stored[index]))
                    found.close += int(np.abs(image - stored[index]).max() <= EDIT)
    return found
