"""Work on one or many runs with one executor: which task is next, and when a run is finished.

Only this process writes run folders. If a worker, a node or this process dies, only units in progress are
repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from robust_eval.core.errors import UserError
from robust_eval.core.files import retry_write
from robust_eval.core.request import Request
from robust_eval.core.types import UnitResult, WorkUnit
from robust_eval.evaluation import result_writer
from robust_eval.evaluation.executors import Event, Executor, Notice, PreparedModel, Source, Task, TaskFailed
from robust_eval.evaluation.executors.display import Display
from robust_eval.evaluation.executors.run_spec import RunSpec
from robust_eval.evaluation.executors.run_states import Running, open_folder
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.executors.task_queue import FIRST, Priority, TaskQueue
from robust_eval.evaluation.planning.cascade import StageUnits
from robust_eval.evaluation.store import unpack_unit
from robust_eval.results import DiagnosisRecord

WAIT_SECONDS = 1.0
MAX_REPEATS = 3
"""How often units that vanish from a run folder are repeated."""


class Scheduler:
    """Works on runs until each has a result or has failed."""

    def __init__(self, specs: Sequence[RunSpec], executor: Executor, display: Display) -> None:
        self.runs = [Run(spec, number) for number, spec in enumerate(specs)]
        self._executor, self._display = executor, display
        self._unopened = list(self.runs)
        self._queue = TaskQueue()
        self._stored_by: dict[str, Run] = {}
        """A run that has stored a unit, by the unit's key."""
        self._locks = ExitStack()

    def work(self) -> list[Run]:
        """Run everything. If interrupted, write what is finished as partial results and raise."""
        with self._locks:
            try:
                while not all(run.closed for run in self.runs):
                    self._executor.feed(self._choose)
                    for event in self._executor.wait(WAIT_SECONDS):
                        self._handle(event)
                    self._display.update(self.runs, self._executor.workers())
            except BaseException:
                for run in self.runs:
                    if not run.closed:
                        run.write_partial()
                raise
        return self.runs

    def _choose(self, loaded: frozenset[Source]) -> Task | None:
        """The next task for a worker. A new run is opened if fewer tasks wait than there are workers."""
        if self._unopened and len(self._queue) < self._executor.size:
            return self._queue.start(self._unopened.pop(0), "load", (), "loading")
        return self._queue.take(loaded)

    def _submit(self, run: Run, method: str, arguments: tuple[object, ...], label: str) -> None:
        self._queue.submit(run, self._queue.start(run, method, arguments, label))

    def _submit_unit(self, run: Run, running: Running, unit: WorkUnit, priority: Priority = FIRST) -> None:
        attack = "clean" if unit.attack is None else unit.attack.id
        label = f"{attack} on {len(unit.indices)} examples (unit {unit.key[:8]})"
        task = self._queue.start(run, "unit", (*running.context, unit), label, unit.key)
        self._queue.submit(run, task, priority)

    def _priority(self, running: Running, stage: StageUnits) -> Priority:
        """A single worker follows the order of the suite; with several, the longest cascade comes first."""
        request = running.opened.request
        if self._executor.size > 1:
            return (-stage.remaining_cost(request),)
        ids = [column.id for column in request.suite.columns]
        return (ids.index(stage.column.id) if stage.column.id in ids else -1,)

    def _handle(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._display.log(event.text)
            return
        runs = self._queue.finished(event.task)
        if isinstance(event, TaskFailed):
            self._give_up(runs, self._failure_text(event), event.error)
        elif event.task.method == "unit":
            self._unit_done(runs, event.task.key, event.value)
        else:
            self._task_done(runs[0], event.task.method, event.value)
        for run in runs:
            self._finish_if_done(run)

    def _failure_text(self, event: TaskFailed) -> str:
        if event.task.method == "load" or len(self.runs) == self._executor.size == 1:
            return event.reason
        times = "" if event.attempts == 1 else f" {event.attempts} times, the last time"
        return f"{event.task.label} failed{times} on {event.worker}: {event.reason}"

    def _give_up(self, runs: Sequence[Run], text: str, error: BaseException | None = None) -> None:
        for run in runs:
            run.fail(text, error)
        if len(self.runs) > 1 or self._executor.size > 1:
            self._display.log(text)

    def _task_done(self, run: Run, method: str, value: Any) -> None:
        try:
            if method == "load":
                self._open(run, value)
            elif method == "prepare":
                self._start(run, value)
            elif method == "report":
                self._reported(run, value)
            else:
                self._diagnosed(run, value)
        except UserError as error:
            self._give_up([run], str(error), error)

    def _open(self, run: Run, request: Request) -> None:
        try:
            run.state = open_folder(run.spec, request, self._locks)
        except UserError as error:
            raise UserError(self._folder_taken(run, request) or str(error)) from error
        self._display.opened(run)
        self._submit(run, "prepare", (request, run.state.tuning, run.spec.diagnose), "probes")

    def _folder_taken(self, run: Run, request: Request) -> str | None:
        """The message if another run of this command has the folder."""
        for other in self.runs:
            if other is not run and other.folder is not None and other.folder == run.spec.folder(request):
                names = f"{run.spec.path} and {other.spec.path}"
                return f"{names} ask for the same run ({other.folder}). Name it once."
        return None

    def _start(self, run: Run, prepared: PreparedModel) -> None:
        running = run.prepared(prepared)
        for note in prepared.notes:
            self._display.log(note if len(self.runs) == 1 else f"{run.spec.name}: {note}")
        self._start_stages(run, running, running.cascade.start())

    def _start_stages(self, run: Run, running: Running, stages: Sequence[StageUnits]) -> None:
        """Submit the units of stages that are neither done, nor stored, nor submitted."""
        waiting = list(stages)
        while waiting:
            stage = waiting.pop(0)
            running.start_stage(stage)
            for unit in stage.units:
                if unit.key in running.cascade.results:
                    continue
                stored = running.opened.store.verdicts(unit.key) or self._copy_unit(running, unit.key)
                if stored is not None:
                    waiting += running.add(unit.key, stored, stored=True)
                elif not self._queue.share(run, unit.key):
                    self._submit_unit(run, running, unit, self._priority(running, stage))

    def _copy_unit(self, running: Running, key: str) -> UnitResult | None:
        """Copy a unit that another run of this command has stored."""
        other = self._stored_by.get(key)
        result = None if other is None or other.opened is None else other.opened.store.get(key)
        if result is not None:
            running.opened.store.put(key, result)
        return result

    def _unit_done(self, runs: Sequence[Run], key: str, value: UnitResult | bytes) -> None:
        whole = unpack_unit(key, value) if isinstance(value, bytes) else value
        result = None if whole is None else whole.without_images()
        for run in runs:
            running = run.running
            if running is None or result is None:
                run.fail(f"{run.spec.name}: unit {key[:8]} was returned damaged")
                continue
            opened = running.opened
            write = partial(opened.store.put, key, value)
            retry_write(write, opened.folder, self._display.log) if opened.folder else write()
            self._stored_by[key] = run
            self._start_stages(run, running, running.add(key, result, stored=False))

    def _finish_if_done(self, run: Run) -> None:
        """Ask for the report once all columns are finished; close a run that cannot continue."""
        if run.closed or run.outstanding:
            return
        running = run.running
        if run.failures:
            run.write_partial()
        elif running is not None and running.cascade.done and not self._repeat_vanished(run, running):
            found = (running.report, running.clean_bits, running.judged_images())
            self._submit(run, "report", (*running.context, *found), "report")

    def _repeat_vanished(self, run: Run, running: Running) -> bool:
        """Repeat units that are missing from the store although they were stored."""
        gone = running.vanished()
        if not gone:
            return False
        running.repeats += 1
        where = f"from {running.opened.folder}"
        if running.repeats > MAX_REPEATS:
            run.fail(f"{run.spec.name}: {len(gone)} finished units keep vanishing {where}")
            run.write_partial()
            return True
        self._display.log(f"{len(gone)} finished units have vanished {where} and are repeated.")
        for unit in gone:
            self._submit_unit(run, running, unit)
        return True

    def _reported(self, run: Run, report: result_writer.ModelReport) -> None:
        assert run.running is not None
        running = run.running
        running.report = report
        diagnosis = result_writer.stored_diagnosis(running.opened.folder)
        if diagnosis is None and run.spec.diagnose and run.spec.shard is None:
            self._submit(run, "diagnose", running.context, "diagnosis")
        else:
            self._close(run, running, diagnosis)

    def _diagnosed(self, run: Run, diagnosis: DiagnosisRecord) -> None:
        assert run.running is not None
        if run.folder is not None:
            result_writer.store_diagnosis(run.folder, diagnosis)
        self._close(run, run.running, diagnosis)

    def _close(self, run: Run, running: Running, diagnosis: DiagnosisRecord | None) -> None:
        try:
            run.close(running.finish(diagnosis))
        except LookupError as error:
            run.fail(f"{run.spec.name}: {error.args[0]} in {running.opened.folder}")
            run.write_partial()
