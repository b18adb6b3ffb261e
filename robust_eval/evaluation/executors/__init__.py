"""Run the units of one or many evaluations: in this process, in local processes, or on a Ray cluster.

:mod:`.scheduler` decides which unit is next and writes the run folders. An executor (:mod:`.local`,
:mod:`.processes`, :mod:`.ray`) has workers; each holds a host (:mod:`.worker_host`) and runs one task at a
time. Verdicts do not depend on which worker runs a task. May import everything else in ``evaluation`` except
``run`` and ``in_memory``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from robust_eval.core.request import Request
from robust_eval.core.types import Bools, UnitResult, WorkUnit
from robust_eval.evaluation.checks.second_judgement import JudgedImages
from robust_eval.evaluation.job import Job
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.planning.worker_count import WorkerPlan
from robust_eval.evaluation.result_writer import ModelReport
from robust_eval.results import DiagnosisRecord


@dataclass(frozen=True, eq=False)
class LoadedJob:
    """A job whose model is already in memory."""

    job: Job


Source = EvaluationOptions | LoadedJob
"""What a worker loads its job from."""


@dataclass(frozen=True)
class PreparedModel:
    """A model that is ready to be attacked."""

    tuning: str | None
    """Content of the run folder's tuning file: all workers call their attack copies alike."""
    report: ModelReport
    first_logits: Tensor | None
    """None for a model with random outputs."""
    notes: tuple[str, ...] = ()
    """Lines for the user."""
    plan: WorkerPlan | None = None
    """The local workers that finish the run soonest, if they were to be chosen."""


class Host(Protocol):
    """The interface of a worker. Every method loads the source if it is not loaded."""

    def load(self, source: Source) -> Request:
        """Load checkpoint and images; the request that they and the options give."""

    def prepare(self, source: Source, request: Request, tuning: str | None, diagnose: bool) -> PreparedModel:
        """Probe the model and choose how its attack copies are called (``tuning``, else measured).

        ``diagnose``: also estimate what the diagnosis will cost.
        """

    def unit(self, source: Source, request: Request, tuning: str | None, unit: WorkUnit) -> UnitResult:
        """Run a unit."""

    def report(
        self,
        source: Source,
        request: Request,
        tuning: str | None,
        first: ModelReport,
        clean: Bools,
        found: JudgedImages,
    ) -> ModelReport:
        """Report on the model after the attacks; ``clean`` (n,): examples correct without an attack.

        ``first``: the report before them. ``found``: images that are judged again.
        """

    def diagnose(self, source: Source, request: Request, tuning: str | None) -> DiagnosisRecord:
        """Run the expensive checks of the model."""


@dataclass(frozen=True, eq=False)
class Task:
    """One call of a host's method."""

    source: Source
    method: str
    arguments: tuple[Any, ...]
    """After the source."""
    label: str
    """Description for messages."""
    key: str = ""
    """The unit's key, if the task is a unit."""


@dataclass(frozen=True)
class TaskDone:
    """A task that has finished."""

    task: Task
    value: Any
    """What the method returned; a unit may come as the bytes of its file."""
    worker: str


@dataclass(frozen=True)
class TaskFailed:
    """A task that failed and is not tried again."""

    task: Task
    reason: str
    """Of the last attempt."""
    worker: str
    attempts: int
    error: BaseException | None = None
    """The exception, if it was raised in this process."""


@dataclass(frozen=True)
class Notice:
    """A message for the user, for example that a task is tried again."""

    text: str


def reason(error: Exception) -> str:
    """An unexpected exception in one line."""
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:300]}"


Event = TaskDone | TaskFailed | Notice
ChooseTask = Callable[[frozenset[Source]], Task | None]
"""The next task for a worker, given what it has loaded."""


@dataclass
class WorkerState:
    """A worker as the display shows it; ``busy`` and ``alive`` in seconds."""

    name: str
    state: str = "starting"
    busy: float = 0.0
    alive: float = 0.0
    tasks: int = 0
    loaded: set[Source] = field(default_factory=set)

    @property
    def utilisation(self) -> float:
        """Fraction of the time since the start that was spent on tasks."""
        return self.busy / self.alive if self.alive else 0.0


class Executor(Protocol):
    """A set of workers."""

    @property
    def size(self) -> int:
        """Number of workers."""

    def feed(self, choose: ChooseTask) -> None:
        """Give every idle worker a task, until ``choose`` returns None."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """Events since the last call; returns after ``seconds`` at the latest if the tasks run elsewhere."""

    def workers(self) -> Sequence[WorkerState]:
        """The state of every worker, for the display."""

    def close(self) -> None:
        """Stop the workers."""
