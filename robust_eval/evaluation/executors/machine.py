"""Executor that uses this machine: its own process, or several processes if they finish the work sooner.

The first checkpoint is loaded and probed in this process. What its passes cost then decides how many
processes do the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robust_eval.core import memory
from robust_eval.evaluation.attack_copy import Log
from robust_eval.evaluation.executors import ChooseTask, Event, Executor, TaskDone, WorkerState
from robust_eval.evaluation.executors.local import LocalExecutor
from robust_eval.evaluation.executors.processes import ProcessExecutor
from robust_eval.evaluation.executors.worker_host import WorkerHost
from robust_eval.evaluation.job import Job, estimate
from robust_eval.evaluation.planning import worker_count
from robust_eval.evaluation.planning.units import stage_units
from robust_eval.evaluation.planning.worker_count import Machine, WorkerPlan
from robust_eval.models.acceleration.tuning import flops

PASS = 1e10
"""Floating-point operations of the passes that are timed: less than a second on one core."""
BATCH = (8, 64)
"""Images of these passes."""


class MachineExecutor:
    """Runs tasks in this process until the number of processes is chosen."""

    def __init__(
        self, workers: int | None, threads: int | None, log: Log, devices: Sequence[str] = ()
    ) -> None:
        """``workers``: number of processes, ``threads`` of each; None: chosen after the first probes.

        ``devices``: the GPUs that the processes share.
        """
        self._wanted, self._threads, self._log, self._devices = workers, threads, log, devices
        self._job: Job | None = None
        """The first job, whose images the processes share."""
        self._before = torch.get_num_threads()
        self._current: Executor = LocalExecutor(WorkerHost(keep=1, log=log, plan=self._plan))

    @property
    def size(self) -> int:
        return self._current.size

    def _plan(self, job: Job) -> WorkerPlan | None:
        """The workers for this job and those that follow; None if they are chosen."""
        if self._job is not None:
            return None
        self._job, cores = job, self._before
        if self._wanted is not None:
            return WorkerPlan(self._wanted, self._threads or max(1, cores // self._wanted))
        if self._devices:
            workers = min(len(self._devices), parallel_units(job))
            return WorkerPlan(max(workers, 1), self._threads or max(1, cores // max(workers, 1)))
        if self._threads is not None:
            return WorkerPlan(max(1, cores // self._threads), self._threads)
        return choose_workers(job, cores)

    def feed(self, choose: ChooseTask) -> None:
        self._current.feed(choose)

    def wait(self, seconds: float) -> Sequence[Event]:
        events = self._current.wait(seconds)
        for event in events:
            plan = (
                event.value.plan if isinstance(event, TaskDone) and event.task.method == "prepare" else None
            )
            if plan is not None and plan.workers > 1:
                self._current.close()
                self._log(f"{plan.workers} processes, {plan.threads} thread{'s' * (plan.threads > 1)} each")
                self._current = ProcessExecutor(plan, self._job, self._devices)
        return events

    def workers(self) -> Sequence[WorkerState]:
        return self._current.workers()

    def close(self) -> None:
        self._current.close()
        torch.set_num_threads(self._before)


def gpus(device: str) -> list[str]:
    """The GPUs that ``--device`` allows, if there are several."""
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 1
    return [f"cuda:{number}" for number in range(count)] if count > 1 else []


def parallel_units(job: Job) -> int:
    """How many units can run at the same time, once the clean predictions are known."""
    request = job.request
    stages = (
        stage_units(request, column, 0, range(request.data.n))
        for column in request.suite.columns
        if column.attacks
    )
    return sum(map(len, stages))


def choose_workers(job: Job, cores: int) -> WorkerPlan:
    """The workers that finish the job soonest on this machine, from a few timed passes."""
    if cores == 1 or job.x_NCHW.device.type != "cpu":
        return WorkerPlan(1, cores)
    parallel = parallel_units(job)
    if parallel < 2:
        return WorkerPlan(1, cores)
    all_threads, one_thread = (_seconds(job, threads) for threads in (cores, 1))
    free, used = memory.available(), memory.peak()
    processes = cores if free is None or used is None else max(1, free // used)
    return worker_count.choose(
        Machine(cores, processes), all_threads, max(one_thread / all_threads, 1.0), parallel
    )


def _seconds(job: Job, threads: int) -> float:
    """Planned seconds of all attacks in one process with this number of threads."""
    torch.set_num_threads(threads)
    images = int(PASS / max(flops(job.model, job.x_NCHW[:1]), 1))
    return sum(one.seconds for one in estimate(job, min(max(images, BATCH[0]), BATCH[1]), repeats=1))
