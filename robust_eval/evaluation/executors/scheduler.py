"""Several runs over one executor: what is done next, where it is kept, and when a run has its row.

The run folders are the only truth. This process alone writes them; workers send a unit's file as bytes, so
that two hands never hold the same shard. Whatever is lost - a worker, a node, this process - costs the units
in flight.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

from robust_eval.core.errors import UserError
from robust_eval.core.files import retry_write
from robust_eval.core.request import CLEAN, Request
from robust_eval.core.types import UnitResult, WorkUnit
from robust_eval.evaluation.executors import Event, Executor, Failed, Notice, Task, WorkerState
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.planning.cascade import StageUnits
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.store import unpack

TICK = 1.0
ROUNDS = 3
"""Times that units which vanished from a finished run's folder are made again."""


class Display(Protocol):
    """Who is told; must not fail."""

    def tick(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None: ...

    def say(self, text: str) -> None: ...


class Pool:
    """Runs in progress. Call :meth:`work` once."""

    def __init__(self, runs: Sequence[Run], executor: Executor, display: Display) -> None:
        self.runs = list(runs)
        self._executor, self._display = executor, display
        self._unopened = list(self.runs)
        self._ready: dict[int, list[tuple[float, int, Task]]] = {}
        self._owner: dict[Task, Run] = {}
        self._pending: dict[str, list[Run]] = {}
        self._stored: dict[str, Run] = {}
        self._order = itertools.count()
        self._locks = ExitStack()

    def work(self) -> None:
        """Until every run has a row or has failed. Interrupted, it writes what is there as partial rows."""
        with self._locks:
            try:
                while not all(run.closed for run in self.runs):
                    self._executor.feed(self._choose)
                    for event in self._executor.wait(TICK):
                        self._handle(event)
                    self._display.tick(self.runs, self._executor.workers())
            except BaseException:
                for run in self.runs:
                    if not run.closed:
                        run.write_partial()
                raise

    def _choose(self, loaded: frozenset[EvaluationOptions]) -> Task | None:
        """The next task for a worker that has ``loaded`` these runs.

        First what it need not load for; of that the earliest run, so that rows appear one by one; of that
        the unit that holds up the longest chain of attacks. New runs are opened while there is too little
        to do.
        """
        waiting = sum(len(heap) for heap in self._ready.values())
        if self._unopened and waiting < self._executor.size:
            run = self._unopened.pop(0)
            run.outstanding += 1
            return self._task(run, "identify", (), f"{run.name}: loading")
        numbers = sorted(self._ready, key=lambda n: (self.runs[n].options not in loaded, n))
        if not numbers:
            return None
        heap = self._ready[numbers[0]]
        task = heapq.heappop(heap)[2]
        if not heap:
            del self._ready[numbers[0]]
        return task

    def _task(self, run: Run, method: str, arguments: tuple[object, ...], label: str, key: str = "") -> Task:
        task = Task(run.options, method, arguments, label, key)
        self._owner[task] = run
        return task

    def _submit(self, run: Run, task: Task, urgency: float) -> None:
        run.outstanding += 1
        heapq.heappush(self._ready.setdefault(run.number, []), (-urgency, next(self._order), task))

    def _handle(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._display.say(event.text)
            return
        run = self._owner.pop(event.task)
        concerned = self._pending.pop(event.task.key, [run])
        for each in concerned:
            each.outstanding -= 1
        if isinstance(event, Failed):
            self._failed(concerned, event)
        elif event.task.method == "unit":
            self._unit(concerned, event.task.key, event.value)
        else:
            self._done(run, event.task.method, event.value)
        for each in concerned:
            self._maybe_close(each)

    def _failed(self, concerned: Sequence[Run], event: Failed) -> None:
        times = "" if event.attempts == 1 else f" {event.attempts} times, the last time"
        text = f"{event.task.label} failed{times} on {event.worker}: {event.reason}"
        if event.task.method == "identify":
            text = event.reason
        self._give_up(concerned, text)

    def _give_up(self, concerned: Sequence[Run], text: str) -> None:
        for run in concerned:
            run.failures.append(text)
        self._display.say(text)

    def _done(self, run: Run, method: str, value: Any) -> None:
        if method == "identify":
            self._opened(run, value)
        elif method == "ready":
            self._ready_to_attack(run, value)
        elif method == "look" and run.diagnose and run.only is None:
            run.look = value
            self._submit(run, self._task(run, "diagnose", run.about, f"{run.name}: diagnosis"), 0.0)
        elif method == "look":
            run.look = value
            run.finish()
        else:
            run.keep_diagnosis(value)
            run.finish()

    def _opened(self, run: Run, request: Request) -> None:
        try:
            run.open(request, self._locks)
        except UserError as error:
            self._give_up([run], self._twin(run) or str(error))
            return
        self._submit(run, self._task(run, "ready", run.about, f"{run.name}: first look"), 0.0)

    def _ready_to_attack(self, run: Run, value: Any) -> None:
        assert run.waves is not None
        try:
            run.ready(*value)
        except UserError as error:
            self._give_up([run], str(error))
            return
        self._open_waves(run, run.waves.open())

    def _twin(self, run: Run) -> str | None:
        """What to say where this pool itself holds the folder."""
        for other in self.runs:
            if other is not run and other.store is not None and other.folder == run.folder:
                names = f"{run.options.checkpoint} and {other.options.checkpoint}"
                return f"{names} ask for the same run ({run.folder}). Name it once."
        return None

    def _open_waves(self, run: Run, opened: Sequence[StageUnits]) -> None:
        assert run.waves is not None
        assert run.store is not None
        todo = list(opened)
        while todo:
            wave = todo.pop(0)
            for unit in wave.units:
                run.units[unit.key] = unit
                if unit.key in run.waves.results or run in self._pending.get(unit.key, ()):
                    continue
                stored = run.store.verdicts(unit.key) or self._borrowed(run, unit.key)
                if stored is not None:
                    run.done += 1
                    todo += run.waves.take(unit.key, stored)
                elif unit.key in self._pending:
                    self._pending[unit.key].append(run)
                    run.outstanding += 1
                else:
                    self._ask(run, unit, wave)

    def _borrowed(self, run: Run, key: str) -> UnitResult | None:
        """A unit that another run of this pool has finished already."""
        owner = self._stored.get(key)
        if owner is None or owner.store is None or run.store is None:
            return None
        result = owner.store.verdicts(key)
        if result is not None:
            run.store.put_packed(key, owner.store.path(key).read_bytes())
        return result

    def _ask(self, run: Run, unit: WorkUnit, wave: StageUnits | None = None) -> None:
        assert run.request is not None
        name = CLEAN if unit.attack is None else unit.attack.id
        label = f"{run.name}: {name} on {len(unit.indices)} examples (unit {unit.key[:8]})"
        self._pending[unit.key] = [run]
        urgency = 0.0 if wave is None else wave.remaining_cost(run.request)
        self._submit(run, self._task(run, "unit", (*run.about, unit), label, unit.key), urgency)

    def _unit(self, concerned: Sequence[Run], key: str, content: bytes) -> None:
        result = unpack(key, content, images=False)
        for run in concerned:
            assert run.store is not None
            assert run.waves is not None
            if result is None:
                run.failures.append(f"{run.name}: unit {key[:8]} came back damaged")
                continue
            retry_write(partial(run.store.put_packed, key, content), run.store.folder, self._display.say)
            run.done += 1
            self._stored[key] = run
            self._open_waves(run, run.waves.take(key, result))

    def _maybe_close(self, run: Run) -> None:
        """Ask for the last look once all columns are there; give up a run that can go no further."""
        if run.closed or run.outstanding:
            return
        if run.failures:
            run.closed = True
            run.write_partial()
        elif run.waves is not None and run.waves.done and not self._vanished(run):
            about = (*run.about, run.waves.finished[CLEAN].thin())
            self._submit(run, self._task(run, "look", about, f"{run.name}: last look"), 0.0)

    def _vanished(self, run: Run) -> bool:
        """Make units again that were stored and are not there any more."""
        gone = run.vanished()
        if not gone:
            return False
        run.rounds += 1
        if run.rounds > ROUNDS:
            run.failures.append(f"{run.name}: {len(gone)} finished units keep vanishing from {run.folder}")
            run.closed = True
            return True
        self._display.say(f"{len(gone)} finished units have vanished from {run.folder}: made again.")
        for unit in gone:
            run.done -= 1
            self._ask(run, unit)
        return True
