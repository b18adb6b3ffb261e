"""Choose what an audit attacks again: whole units, at random, until they hold enough robust examples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from robust_eval import attacks
from robust_eval.core import seeds
from robust_eval.core.errors import UserError
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import Bools, Column, Cost, Ints
from robust_eval.core.verdict_bits import parse_bits
from robust_eval.evaluation.planning import suites
from robust_eval.evaluation.planning.units import split_into_batches
from robust_eval.results import EvalResult
from robust_eval.results.request_records import request_of
from robust_eval.verification.repetition import Repetition


@dataclass(frozen=True)
class AuditPlan:
    """The attacks of an audit."""

    request: Request
    """That of the result."""
    fresh: tuple[Request, Request]
    """The same with fresh seeds."""
    seed: int
    """The seed that the units and the fresh seed were drawn with."""
    columns: tuple[Repetition, ...]
    chosen: Ints
    """Examples of the chosen units; all are correct without an attack."""
    recorded: Bools
    """(n,) recorded as robust under every audited column."""

    @property
    def robust(self) -> int:
        """Number of examples that are attacked again although they are recorded as robust."""
        return int(self.recorded[self.chosen].sum())

    @property
    def cost(self) -> Cost:
        """Passes if nothing breaks and both fresh seeds are used; more than will be needed."""
        total = Cost(0, 0)
        for column in self.columns:
            total += column.cost(self.request)
            for attack in column.column.attacks:
                one = attacks.cost(attack, self.request.checkpoint.classes)
                images = len(self.fresh) * len(self.chosen)
                total += Cost(one.forwards * images, one.backwards * images)
        return total


def plan_audit(result: EvalResult, n: int, seed: int, suite: str | None = None) -> AuditPlan:
    """An audit of ``n`` robust examples or more, in units that ``seed`` chooses.

    ``suite``: audit these columns of the result only; None: all. Raises :class:`UserError` if no example is
    robust, if a column is not one of the result's, or if this release has another version of an attack.
    """
    if n < 1:
        raise UserError(f"--audit must be at least 1, got {n}.")
    request = request_of(result)
    columns = _columns(request, suite)
    clean = parse_bits(result.columns[CLEAN].robust_bits)
    recorded = clean.copy()
    for column in columns:
        recorded &= parse_bits(result.columns[column.id].robust_bits)
    if not recorded.any():
        raise UserError("There is nothing to audit: no example is robust. Leave out --audit.")
    chosen = _choose(request, clean, recorded, n, seed)
    first, second = (replace(request, seed=seeds.derive(seed, f"audit {k}", request.key)) for k in (1, 2))
    repetitions = (Repetition(one, result.columns[one.id], clean, chosen) for one in columns)
    return AuditPlan(request, (first, second), seed, tuple(repetitions), chosen, recorded)


def _choose(request: Request, clean: Bools, recorded: Bools, n: int, seed: int) -> Ints:
    """The examples of randomly chosen batches, as they entered the first attack of every column."""
    batches = [np.array(batch) for batch in split_into_batches(request, np.flatnonzero(clean).tolist())]
    chosen, covered = np.empty(0, dtype=np.int64), 0
    for number in np.random.default_rng(seed).permutation(len(batches)):
        if covered >= n:
            break
        chosen = np.concatenate([chosen, batches[number]])
        covered += int(recorded[batches[number]].sum())
    return np.sort(chosen)


def _columns(request: Request, suite: str | None) -> tuple[Column, ...]:
    own = {column.id: column for column in request.suite.columns if column.attacks}
    wanted = own
    if suite is not None:
        wanted = {column.id: column for column in suites.load(suite).columns if column.attacks}
        for name, column in wanted.items():
            if own.get(name) != column:
                raise UserError(
                    f"The row has no column {name} with these attacks. --audit-suite chooses among its "
                    f"columns: {', '.join(own)}."
                )
    if not wanted:
        raise UserError("There is nothing to audit with: the suite has no attack. Leave out --audit.")
    for column in wanted.values():
        for attack in column.attacks:
            version = attacks.family(attack.family).VERSION
            attacks.refuse_other_code(attack.family, request.library(attack.family))
            if version != attack.version:
                raise UserError(
                    f"{attack.id} is version {attack.version} in the result and version {version} in this "
                    "release, which cannot repeat it. Leave out its column: --audit-suite COLUMNS."
                )
    return tuple(wanted.values())
