"""Where work units run: in this process (:mod:`.local`) or on a cluster (:mod:`.ray`).

An executor has workers; each holds a :class:`~robust_eval.evaluation.executors.worker_host.Host` and is asked one task at a
time. Which task goes to which worker changes no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from robust_eval.evaluation.planning.options import EvaluationOptions


@dataclass(frozen=True, eq=False)
class Task:
    """One question to a host: the method's name and what it is given after the options."""

    options: EvaluationOptions
    method: str
    arguments: tuple[Any, ...]
    label: str
    """In words, for whoever reads of its failure."""
    key: str = ""
    """The unit's, where it is one."""


@dataclass(frozen=True)
class Done:
    task: Task
    value: Any
    worker: str


@dataclass(frozen=True)
class Failed:
    """Given up: ``reason`` is the last attempt's."""

    task: Task
    reason: str
    worker: str
    attempts: int


@dataclass(frozen=True)
class Notice:
    """Something went wrong and is being put right; ``text`` says which unit, where, why, how often."""

    text: str


def reason(error: Exception) -> str:
    """An exception that no_log expected, in a line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:300]}"


Event = Done | Failed | Notice
Choose = Callable[[frozenset[EvaluationOptions]], Task | None]
"""From what a worker has loaded to its next task."""


@dataclass
class WorkerState:
    """For the display. ``busy`` and ``alive`` are seconds."""

    name: str
    state: str = "starting"
    busy: float = 0.0
    alive: float = 0.0
    tasks: int = 0
    loaded: set[EvaluationOptions] = field(default_factory=set)

    @property
    def utilisation(self) -> float:
        return self.busy / self.alive if self.alive else 0.0


class Executor(Protocol):
    @property
    def size(self) -> int:
        """Workers."""

    def feed(self, choose: Choose) -> None:
        """Give every idle worker a task, as long as ``choose`` has one."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """What has happened; after so many seconds at the latest."""

    def workers(self) -> Sequence[WorkerState]: ...

    def close(self) -> None: ...
