"""Executor with several processes of this machine.

Each loads a checkpoint once. A process that dies is replaced and its task is tried elsewhere; a task during
which many processes die is given up.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import ChooseTask, Event, Task, WorkerState, shared_images
from robust_eval.evaluation.executors.retries import Retries
from robust_eval.evaluation.executors.shared_images import SharedImages
from robust_eval.evaluation.executors.worker_process import WorkerProcess
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.worker_count import WorkerPlan

MAX_FAILED_STARTS = 3
"""Per worker: after this many deaths in a row during the start, the run is given up."""


@dataclass
class _Worker:
    """A process and its task."""

    process: WorkerProcess
    state: WorkerState
    device: str | None
    born: float
    task: Task | None = None


class ProcessExecutor:
    """Runs tasks in local processes."""

    def __init__(self, plan: WorkerPlan, job: Job | None = None, devices: Sequence[str] = ()) -> None:
        """``job``: its images are shared by all processes. ``devices``: GPUs, each for every n-th process."""
        self._threads = plan.threads
        self._retries = Retries()
        self._events: list[Event] = []
        self._failed_starts = 0
        self._folder = tempfile.TemporaryDirectory(prefix="robust-eval-", ignore_cleanup_errors=True)
        self._shared = None if job is None else self._share(job)
        self._workers: list[_Worker] = []
        try:
            for number in range(plan.workers):
                device = devices[number % len(devices)] if devices else None
                self._workers.append(self._start(WorkerState(f"worker {number + 1}"), device))
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        return len(self._workers)

    def _share(self, job: Job) -> SharedImages | None:
        folder = Path(self._folder.name)
        try:
            return shared_images.share(job.request.data.fingerprint, job.x_NCHW, job.y_N, folder)
        except OSError:
            # No space for temporary files: each process loads the images.
            return None

    def _start(self, state: WorkerState, device: str | None) -> _Worker:
        state.state, state.loaded = "starting", set()
        try:
            process = WorkerProcess(self._threads, self._shared, device)
            return _Worker(process, state, device, time.monotonic())
        except OSError as error:
            raise UserError(
                f"No worker process can be started ({error.strerror}). Use --workers 1."
            ) from None

    def feed(self, choose: ChooseTask) -> None:
        up = sum(worker.state.state != "starting" for worker in self._workers)
        for worker in self._workers:
            if worker.task is not None or worker.state.state == "starting":
                continue
            name, alone = worker.state.name, up <= 1
            task = (
                self._retries.take(name, alone=alone, suspect=False)
                or choose(frozenset(worker.state.loaded))
                or self._retries.take(name, alone=alone, suspect=True)
            )
            if task is None:
                worker.state.state = "idle"
                continue
            worker.task = task
            worker.state.state = task.label
            worker.state.loaded.add(task.source)
            worker.process.send(task)

    def wait(self, seconds: float) -> Sequence[Event]:
        by_connection: dict[Any, _Worker] = {worker.process.connection: worker for worker in self._workers}
        for connection in wait(list(by_connection), 0 if self._events else seconds):
            self._settle(by_connection[connection])
        now = time.monotonic()
        for worker in self._workers:
            if worker.state.state != "starting":
                worker.state.alive += now - worker.born
                worker.born = now
        events, self._events = self._events, []
        return events

    def _settle(self, worker: _Worker) -> None:
        """Take the answer of a worker, or replace it if it died."""
        try:
            answer = worker.process.connection.recv()
        except (EOFError, OSError):
            self._lost(worker)
            return
        task, worker.task = worker.task, None
        if task is None:
            _host, number = answer
            worker.state.name, worker.state.state = f"process {number}", "idle"
            worker.born, self._failed_starts = time.monotonic(), 0
            return
        kind, value, seconds = answer
        worker.state.busy += seconds
        worker.state.tasks += kind == "done"
        self._events.append(self._retries.answered(task, worker.state.name, kind, value))

    def _lost(self, worker: _Worker) -> None:
        why, task = worker.process.ending(), worker.task
        worker.process.close(idle=False)
        if task is not None:
            self._events.append(self._retries.failed(task, worker.state.name, why, died=True))
        else:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS * min(len(self._workers), 3):
                raise UserError(f"Worker processes end as soon as they start ({why}). Use --workers 1.")
        fresh = self._start(worker.state, worker.device)
        worker.process, worker.born, worker.task = fresh.process, fresh.born, None

    def workers(self) -> Sequence[WorkerState]:
        return [worker.state for worker in self._workers]

    def close(self) -> None:
        for worker in self._workers:
            worker.process.close(idle=worker.task is None)
        self._folder.cleanup()
