"""Failed tasks that are tried again: how often, on which worker, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robust_eval.evaluation.executors import Event, Notice, Task, TaskDone, TaskFailed

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

    def answered(self, task: Task, worker: str, kind: str, value: Any) -> Event:
        """The event for a worker's answer: ``done`` with a value, ``refused`` or ``failed`` with a reason."""
        if kind == "done":
            self._attempts.pop(task, None)
            return TaskDone(task, value, worker)
        if kind == "refused" and task.method != "unit":
            return TaskFailed(task, value, worker, 1)
        return self.failed(task, worker, value, died=False)

    def failed(self, task: Task, worker: str, why: str, *, died: bool) -> Event:
        """Record a failure, or the death of the worker; the event says whether another attempt follows."""
        attempts = self._attempts.setdefault(task, _Attempts())
        attempts.crashes, attempts.errors = attempts.crashes + died, attempts.errors + (not died)
        attempts.last_on = worker
        number = attempts.crashes + attempts.errors
        if attempts.crashes < MAX_CRASHES and attempts.errors < MAX_ERRORS:
            self._waiting.append(task)
            return Notice(f"{task.label} on {worker}: {why}; attempt {number + 1} follows.")
        del self._attempts[task]
        return TaskFailed(task, why, worker, number)

    def take(self, worker: str, *, alone: bool, suspect: bool) -> Task | None:
        """A task for this worker, or None; ``alone``: there is no other worker."""
        for number, task in enumerate(self._waiting):
            attempts = self._attempts[task]
            if (alone or attempts.last_on != worker) and (attempts.crashes >= CRASHES_BEFORE_LAST) == suspect:
                return self._waiting.pop(number)
        return None
