"""Failed tasks that are tried again: how often, on which worker, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from robust_eval.evaluation.executors import Task

MAX_CRASHES = 5
"""Abandon a task after this many worker crashes while it ran."""
CRASHES_BEFORE_LAST = 2
"""After this many, the task runs only when no other task is left: it may be the cause."""
MAX_ERRORS = 2
"""Attempts of a task that raises an exception, on different workers if the executor has several."""


@dataclass
class _Attempts:
    crashes: int = 0
    errors: int = 0
    last_on: str = ""


@dataclass
class Retries:
    """Failed tasks that wait for another attempt, with their numbers of attempts."""

    _waiting: list[Task] = field(default_factory=list)
    _attempts: dict[Task, _Attempts] = field(default_factory=dict)

    def failed(self, task: Task, worker: str, *, died: bool) -> tuple[int, bool]:
        """Record a failure; returns (attempts so far, whether another one follows)."""
        attempts = self._attempts.setdefault(task, _Attempts())
        attempts.crashes, attempts.errors = attempts.crashes + died, attempts.errors + (not died)
        attempts.last_on = worker
        again = attempts.crashes < MAX_CRASHES and attempts.errors < MAX_ERRORS
        if again:
            self._waiting.append(task)
        else:
            del self._attempts[task]
        return attempts.crashes + attempts.errors, again

    def succeeded(self, task: Task) -> None:
        """Forget the attempts of a task."""
        self._attempts.pop(task, None)

    def take(self, worker: str, *, alone: bool, suspect: bool) -> Task | None:
        """A task for this worker, or None; ``alone``: there is no other worker."""
        for number, task in enumerate(self._waiting):
            attempts = self._attempts[task]
            if (alone or attempts.last_on != worker) and (attempts.crashes >= CRASHES_BEFORE_LAST) == suspect:
                return self._waiting.pop(number)
        return None
