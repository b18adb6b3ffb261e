"""Helpers for tests of the scheduler: a silent display, short calls, and results without their times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from robust_eval.evaluation.executors import Executor, WorkerState
from robust_eval.evaluation.executors.local import LocalExecutor
from robust_eval.evaluation.executors.run_spec import RunSpec, make_run_spec
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.executors.scheduler import Scheduler
from robust_eval.evaluation.executors.worker_host import WorkerHost
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.results import EvalResult, read_result
from robust_eval.verification import selftest

TRAINED = Path(selftest.__file__).with_name("digits-at.safetensors")
"""Checkpoint of a small trained digits network."""
OBJECT_STORE = 100 * 2**20
"""Size of the object store of the tests' Ray cluster, in bytes."""


class RecordingDisplay:
    """A display that stores logged lines and calls ``on_update`` with the runs at every update."""

    def __init__(self, on_update: Callable[[Sequence[Run]], None] = lambda _: None) -> None:
        self.logged: list[str] = []
        self.on_update = on_update

    def update(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        self.on_update(runs)

    def opened(self, run: Run) -> None: ...

    def log(self, text: str) -> None:
        self.logged.append(text)


def local_executor() -> LocalExecutor:
    return LocalExecutor(WorkerHost(keep=1))


def run_options(
    options: Sequence[EvaluationOptions],
    executor: Executor | None,
    out: Path,
    display: RecordingDisplay | None = None,
    shard: int | None = None,
) -> list[Run]:
    """Evaluate each of the options in its own folder below ``out``; returns the runs."""
    specs = [make_run_spec(one, out, parent=True, shard=shard) for one in options]
    return run_specs(specs, executor, display)


def run_specs(
    specs: Sequence[RunSpec], executor: Executor | None = None, display: RecordingDisplay | None = None
) -> list[Run]:
    return Scheduler(specs, executor or local_executor(), display or RecordingDisplay()).work()


def without_times(result: EvalResult | Path) -> object:
    """The content of a result that must depend neither on the worker nor on the time of the run."""
    if isinstance(result, Path):
        result = read_result(result)
    value = result.model_dump(exclude={"created", "environment", "seconds"})
    for column in (*value["columns"].values(), value["worst_case"]):
        column["seconds"] = 0
        for attack in column.get("attacks", ()):
            attack["seconds"] = 0
    return value
