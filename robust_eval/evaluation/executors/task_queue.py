"""Tasks that wait for a worker or run on one."""

from __future__ import annotations

import heapq
import itertools

from robust_eval.evaluation.executors import Source, Task
from robust_eval.evaluation.executors.scheduled_run import Run

Priority = tuple[float, ...]
"""Tasks with smaller values run sooner, within one run."""
FIRST: Priority = ()


class TaskQueue:
    """Tasks of several runs. A unit that several runs need is one task, which belongs to all of them."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[tuple[Priority, int, Task]]] = {}
        """By run number: a heap."""
        self._runs_of: dict[Task, list[Run]] = {}
        self._by_key: dict[str, Task] = {}
        self._order = itertools.count()

    def __len__(self) -> int:
        """Number of tasks that wait."""
        return sum(map(len, self._waiting.values()))

    def start(self, run: Run, method: str, arguments: tuple[object, ...], label: str, key: str = "") -> Task:
        """Create a task, which the caller gives to a worker or to :meth:`submit`."""
        task = Task(run.spec.source, method, arguments, f"{run.spec.name}: {label}", key)
        self._runs_of[task] = [run]
        if key:
            self._by_key[key] = task
        run.outstanding += 1
        return task

    def submit(self, run: Run, task: Task, priority: Priority = FIRST) -> None:
        """Queue a task until a worker takes it."""
        heapq.heappush(self._waiting.setdefault(run.number, []), (priority, next(self._order), task))

    def share(self, run: Run, key: str) -> bool:
        """Assign a waiting or running unit to ``run`` too; False for an unknown unit."""
        task = self._by_key.get(key)
        if task is None:
            return False
        if run not in self._runs_of[task]:
            self._runs_of[task].append(run)
            run.outstanding += 1
        return True

    def take(self, loaded: frozenset[Source]) -> Task | None:
        """The next task for a worker that has ``loaded`` these sources.

        Loaded sources first; then the earliest run, so that results appear one by one; then the smallest
        priority.
        """
        if not self._waiting:
            return None
        number = min(self._waiting, key=lambda n: (self._waiting[n][0][2].source not in loaded, n))
        task = heapq.heappop(self._waiting[number])[2]
        if not self._waiting[number]:
            del self._waiting[number]
        return task

    def finished(self, task: Task) -> list[Run]:
        """Remove a task and return the runs that it belonged to."""
        self._by_key.pop(task.key, None)
        runs = self._runs_of.pop(task)
        for run in runs:
            run.outstanding -= 1
        return runs
