"""A row of the self-test's table: something planted, and what must be said about it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from robust_eval.core.errors import UserError
from robust_eval.results import FlagRecord

STOPPED = "stopped"
"""In place of a flag: the run ends with a sentence, and without a result."""
EXACT = "exact"
"""In place of a flag: the robust accuracy is the one that was calculated."""


@dataclass(frozen=True)
class Case:
    group: str
    name: str
    expected: frozenset[str]
    """Flags that must be raised; none for an honest model."""
    find: Callable[[], set[str]]
    also: frozenset[str] = frozenset()
    """Flags that may be raised too: the same lie seen in other ways."""


@dataclass(frozen=True)
class CaseOutcome:
    case: Case
    found: frozenset[str]
    seconds: float

    @property
    def missed(self) -> frozenset[str]:
        return self.case.expected - self.found

    @property
    def false_alarms(self) -> frozenset[str]:
        return self.found - self.case.expected - self.case.also

    @property
    def ok(self) -> bool:
        return not self.missed and not self.false_alarms


def case(group: str, name: str, expected: Collection[str], find: Callable[[], set[str]], *also: str) -> Case:
    return Case(group, name, frozenset(expected), find, frozenset(also))


def ids(flags: Collection[FlagRecord]) -> set[str]:
    return {flag.id for flag in flags}


def run(case: Case) -> CaseOutcome:
    start = time.perf_counter()
    try:
        found = case.find()
    except UserError:
        found = {STOPPED}
    return CaseOutcome(case, frozenset(found), time.perf_counter() - start)
