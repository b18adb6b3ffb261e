"""Executor with one Ray actor per device.

Each actor loads a checkpoint once. Ray handles placement, transfer and failure detection; the order of the
tasks is decided in :mod:`.scheduler`. A worker that dies is replaced and its task is tried elsewhere; a task
during which many workers die is given up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions

from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import ChooseTask, Event, Task, WorkerState, ray_addresses
from robust_eval.evaluation.executors.host_process import HostProcess
from robust_eval.evaluation.executors.ray_cluster import GIB, GrantedResources
from robust_eval.evaluation.executors.retries import Retries

MAX_FAILED_STARTS = 3
"""Per worker: after this many deaths in a row during the start, the run is given up."""
START_SECONDS = 180.0
"""How long the first worker may take to start."""
HEAD_SECONDS = 30.0
"""How long the cluster's head may not answer; after 60 s Ray would end this process without a message."""


@dataclass
class _Actor:
    """A worker and its task."""

    handle: Any
    state: WorkerState
    ref: Any
    born: float
    task: Task | None = None
    pid: int = 0


class RayExecutor:
    """The workers that :func:`robust_eval.evaluation.executors.ray_cluster.connect` granted."""

    def __init__(self, granted: GrantedResources) -> None:
        self._granted = granted
        self._remote = ray.remote(max_restarts=0, max_concurrency=1, scheduling_strategy="SPREAD")(
            HostProcess
        )
        self._retries = Retries()
        self._events: list[Event] = []
        self._failed_starts = 0
        self._started = self._head_asked = time.monotonic()
        self._silent_since: float | None = None
        self._head = str(ray.get_runtime_context().gcs_address)
        self._head_lost = False
        self._actors = [self._spawn(WorkerState(f"worker {i + 1}")) for i in range(granted.workers)]

    @property
    def size(self) -> int:
        return len(self._actors)

    def _spawn(self, state: WorkerState) -> _Actor:
        g = self._granted
        handle = self._remote.options(num_cpus=g.cpus, num_gpus=g.gpus, memory=g.memory).remote(g.cpus)
        state.state, state.loaded = "starting", set()
        return _Actor(handle, state, handle.identify.remote(), time.monotonic())

    def feed(self, choose: ChooseTask) -> None:
        for actor in self._actors:
            if actor.ref is not None:
                continue
            task = (
                self._again(actor, suspect=False)
                or choose(frozenset(actor.state.loaded))
                or self._again(actor, suspect=True)
            )
            if task is None:
                actor.state.state = "idle"
                continue
            actor.task = task
            actor.ref = actor.handle.run_task.remote(task.method, task.source, task.arguments)
            actor.state.state = task.label
            actor.state.loaded.add(task.source)

    def _again(self, actor: _Actor, *, suspect: bool) -> Task | None:
        # A worker that has not started may never start: no task waits for it.
        up = sum(one.state.state != "starting" for one in self._actors)
        return self._retries.take(actor.state.name, alone=up <= 1, suspect=suspect)

    def wait(self, seconds: float) -> Sequence[Event]:
        under_way = {actor.ref: actor for actor in self._actors if actor.ref is not None}
        ready: list[Any] = []
        if under_way:
            ready, _ = ray.wait(list(under_way), num_returns=1, timeout=seconds)
            if ready:
                ready, _ = ray.wait(list(under_way), num_returns=len(under_way), timeout=0)
        elif not self._events:
            time.sleep(min(seconds, 0.1))
        for ref in ready:
            self._settle(under_way[ref], ref)
        self._check_head()
        self._check_start()
        now = time.monotonic()
        for actor in self._actors:
            if actor.state.state != "starting":
                actor.state.alive += now - actor.born
                actor.born = now
        events, self._events = self._events, []
        return events

    def _settle(self, actor: _Actor, ref: Any) -> None:
        task, actor.task, actor.ref = actor.task, None, None
        try:
            value = ray.get(ref)
        except exceptions.RayActorError as error:
            self._lost(actor, task, _cause(error))
            return
        except exceptions.RayError as error:
            # The result was lost in transfer: the node died, or its object store was full.
            if task is None:
                self._lost(actor, task, _cause(error))
            else:
                self._died(task, actor, f"its result was lost ({_cause(error)})")
            return
        if task is None:
            host, actor.pid = value
            actor.state.name, actor.state.state = f"{host}:{actor.pid}", "idle"
            actor.born, self._failed_starts = time.monotonic(), 0
            return
        kind, answer, seconds = value
        actor.state.busy += seconds
        actor.state.tasks += kind == "done"
        self._events.append(self._retries.answered(task, actor.state.name, kind, answer))

    def _lost(self, actor: _Actor, task: Task | None, why: str) -> None:
        """Replace a worker that died."""
        if task is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS * max(1, min(len(self._actors), 3)):
                raise UserError(f"Workers die as soon as they start ({why}): see Ray's logs on the nodes.")
        else:
            self._died(task, actor, why)
        ray.kill(actor.handle)
        fresh = self._spawn(actor.state)
        actor.handle, actor.ref, actor.born = fresh.handle, fresh.ref, fresh.born

    def _died(self, task: Task, actor: _Actor, why: str) -> None:
        self._events.append(self._retries.failed(task, actor.state.name, why, died=True))

    def _check_start(self) -> None:
        """Give up if no worker starts: the granted resources are not available."""
        if any(actor.state.state != "starting" for actor in self._actors):
            self._started = time.monotonic()
        elif time.monotonic() - self._started > START_SECONDS:
            g = self._granted
            raise UserError(
                f"No worker could start within {START_SECONDS:.0f} s. Each asks for {g.gpus:g} GPUs, "
                f"{g.cpus} CPUs and {g.memory / GIB:.1f} GiB: are other jobs on the cluster, or is a node "
                "too small?"
            )

    def _check_head(self) -> None:
        """Give up if the head has not answered for HEAD_SECONDS; checked every few seconds."""
        now = time.monotonic()
        if now - self._head_asked < HEAD_SECONDS / 10:
            return
        self._head_asked = now
        if ray_addresses.answers(self._head):
            self._silent_since = None
            return
        self._silent_since = self._silent_since or now
        if now - self._silent_since > HEAD_SECONDS:
            self._head_lost = True
            raise UserError(
                f"The cluster's head at {self._head} has not answered for {HEAD_SECONDS:.0f} s. Finished "
                "work is kept: start the cluster again, then the same command continues."
            )

    def workers(self) -> Sequence[WorkerState]:
        return [actor.state for actor in self._actors]

    def close(self) -> None:
        # Without a head Ray would wait for one instead of stopping the workers.
        for actor in () if self._head_lost else self._actors:
            ray.kill(actor.handle)
        if self._granted.owns_connection:
            ray.shutdown()


def _cause(error: BaseException) -> str:
    # The end of the message lists common causes, regardless of what happened.
    text = str(error).partition("Some common causes")[0]
    lowered = text.lower()
    if isinstance(error, exceptions.OutOfMemoryError) or "running low on memory" in lowered:
        return "the node ran out of memory"
    if isinstance(error, exceptions.OutOfDiskError | exceptions.ObjectStoreFullError):
        return "the object store and the disk behind it are full"
    if isinstance(error, exceptions.ObjectLostError):
        return "an object was lost with its node"
    if "node" in lowered and ("died" in lowered or "dead" in lowered):
        return "the worker's process or node died"
    if isinstance(error, exceptions.RayActorError):
        return "the worker's process died"
    return f"{type(error).__name__}: {(text.strip().splitlines() or [''])[0][:200]}"
