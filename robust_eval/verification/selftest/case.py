"""A case of the self-test: a planted defect, and the flags it must raise."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from robust_eval.core.errors import UserError
from robust_eval.results import FlagRecord

STOPPED = "stopped"
"""Expected instead of a flag: the run ends with an error message and without a result."""
EXACT = "exact"
"""Expected instead of a flag: the robust accuracy equals the calculated one."""


@dataclass(frozen=True)
class Case:
    """A planted defect or an unmodified model, and the flags that the evaluator must raise."""

    group: str
    name: str
    expected: frozenset[str]
    """Flags that must be raised; empty for an unmodified model."""
    run: Callable[[], set[str]]
    """Runs the evaluator and returns the ids of the flags raised."""
    allowed: frozenset[str] = frozenset()
    """Further flags that the same defect may raise."""


@dataclass(frozen=True)
class CaseOutcome:
    """The flags that the evaluator raised in a case."""

    case: Case
    found: frozenset[str]
    seconds: float

    @property
    def missed(self) -> frozenset[str]:
        """Expected flags that were not raised."""
        return self.case.expected - self.found

    @property
    def false_alarms(self) -> frozenset[str]:
        """Flags that were raised but neither expected nor allowed."""
        return self.found - self.case.expected - self.case.allowed

    @property
    def passed(self) -> bool:
        """Whether exactly the right flags were raised."""
        return not self.missed and not self.false_alarms


def make_case(
    group: str, name: str, expected: Collection[str], run: Callable[[], set[str]], *allowed: str
) -> Case:
    """A case from plain collections of flag ids."""
    return Case(group, name, frozenset(expected), run, frozenset(allowed))


def flag_ids(flags: Collection[FlagRecord]) -> set[str]:
    """The ids of flags."""
    return {flag.id for flag in flags}


def run_case(case: Case) -> CaseOutcome:
    """Run one case; a :class:`UserError` counts as ``stopped``."""
    start = time.perf_counter()
    try:
        found = case.run()
    except UserError:
        found = {STOPPED}
    return CaseOutcome(case, frozenset(found), time.perf_counter() - start)
