"""Everything in this process, one task after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence

from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import Choose, Done, Event, Failed, Task, WorkerState, reason
from robust_eval.evaluation.executors.worker_host import Host

HERE = "this process"


class LocalExecutor:
    """One worker: this process. Several checkpoints are loaded one after the other."""

    size = 1

    def __init__(self) -> None:
        self._host = Host(keep=1)
        self._state = WorkerState(HERE, "idle")
        self._started = time.monotonic()
        self._task: Task | None = None

    def feed(self, choose: Choose) -> None:
        if self._task is None:
            self._task = choose(frozenset(self._state.loaded))

    def wait(self, seconds: float) -> Sequence[Event]:
        """Do the task; ``seconds`` are of no use here, since nothing else happens meanwhile."""
        task, self._task = self._task, None
        if task is None:
            return []
        start = time.monotonic()
        self._state.loaded = {task.options}
        try:
            value = getattr(self._host, task.method)(task.options, *task.arguments)
        except UserError as error:
            return [Failed(task, str(error), HERE, 1)]
        except Exception as error:
            # The other checkpoints are not to suffer for it.
            return [Failed(task, reason(error), HERE, 1)]
        finally:
            self._state.busy += time.monotonic() - start
            self._state.alive = time.monotonic() - self._started
        self._state.tasks += 1
        return [Done(task, value, HERE)]

    def workers(self) -> Sequence[WorkerState]:
        return [self._state]

    def close(self) -> None: ...
