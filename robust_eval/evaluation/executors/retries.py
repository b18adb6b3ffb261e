"""Tasks that failed: how often each is tried, where, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from robust_eval.evaluation.executors import Task

MAX_CRASHES = 5
"""A task that was under way in so many workers' deaths is given up."""
CRASHES_BEFORE_LAST = 2
"""One that was under way in so many waits behind all other work: it may be their cause."""
ERRORS = 2
"""A task that fails by itself is tried so often, on different workers where there are several."""


@dataclass
class _Tries:
    deaths: int = 0
    errors: int = 0
    last_on: str = ""


@dataclass
class Retries:
    """Which tasks are to be tried again. A task under way is in nobody's list."""

    _waiting: list[Task] = field(default_factory=list)
    _tries: dict[Task, _Tries] = field(default_factory=dict)

    def failed(self, task: Task, worker: str, *, died: bool) -> tuple[int, bool]:
        """(attempts so far, whether another one follows)"""
        tries = self._tries.setdefault(task, _Tries())
        tries.deaths, tries.errors = tries.deaths + died, tries.errors + (not died)
        tries.last_on = worker
        again = tries.deaths < MAX_CRASHES and tries.errors < ERRORS
        if again:
            self._waiting.append(task)
        else:
            del self._tries[task]
        return tries.deaths + tries.errors, again

    def succeeded(self, task: Task) -> None:
        self._tries.pop(task, None)

    def take(self, worker: str, *, alone: bool, suspect: bool) -> Task | None:
        """A task for this worker, or None; ``alone``: there is no other that could have it."""
        for number, task in enumerate(self._waiting):
            tries = self._tries[task]
            if (alone or tries.last_on != worker) and (tries.deaths >= CRASHES_BEFORE_LAST) == suspect:
                return self._waiting.pop(number)
        return None
