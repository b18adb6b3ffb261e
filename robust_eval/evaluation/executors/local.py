"""Executor with a single worker: this process."""

from __future__ import annotations

import time
from collections.abc import Sequence

from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import (
    ChooseTask,
    Event,
    Host,
    Task,
    TaskDone,
    TaskFailed,
    WorkerState,
    reason,
)

NAME = "this process"
EXITS = "The code of the model ended the program (SystemExit). Remove exit() from it."


class LocalExecutor:
    """Runs tasks one after the other in this process."""

    size = 1

    def __init__(self, host: Host) -> None:
        self._host = host
        self._state = WorkerState(NAME, "idle")
        self._started = time.monotonic()
        self._task: Task | None = None

    def feed(self, choose: ChooseTask) -> None:
        if self._task is None:
            self._task = choose(frozenset(self._state.loaded))

    def wait(self, seconds: float) -> Sequence[Event]:
        """Run the task; ``seconds`` is not used."""
        task, self._task = self._task, None
        if task is None:
            return []
        start = time.monotonic()
        self._state.loaded = {task.source}
        try:
            value = getattr(self._host, task.method)(task.source, *task.arguments)
        except UserError as error:
            return [TaskFailed(task, str(error), NAME, 1, error)]
        except SystemExit as error:
            return [TaskFailed(task, EXITS, NAME, 1, UserError(EXITS).with_traceback(error.__traceback__))]
        except Exception as error:
            # The other checkpoints continue.
            return [TaskFailed(task, reason(error), NAME, 1, error)]
        finally:
            self._state.busy += time.monotonic() - start
            self._state.alive = time.monotonic() - self._started
        self._state.tasks += 1
        return [TaskDone(task, value, NAME)]

    def workers(self) -> Sequence[WorkerState]:
        return [self._state]

    def close(self) -> None: ...
