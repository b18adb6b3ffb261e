"""Helpers for tests of the scheduler: runs without a screen, and results without their times."""

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
"""A small trained digits network."""
OBJECT_STORE = 100 * 2**20
"""Bytes of the object store of the tests' Ray cluster."""


class Quiet:
    """Keeps what is logged; ``each`` is called at every update."""

    def __init__(self, each: Callable[[Sequence[Run]], None] = lambda _: None) -> None:
        self.logged: list[str] = []
        self.each = each

    def update(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        self.each(runs)

    def opened(self, run: Run) -> None: ...

    def log(self, text: str) -> None:
        self.logged.append(text)


def local() -> LocalExecutor:
    return LocalExecutor(WorkerHost(keep=1))


def work(
    options: Sequence[EvaluationOptions],
    executor: Executor | None,
    out: Path,
    display: Quiet | None = None,
    shard: int | None = None,
) -> list[Run]:
    """The runs of several options, each in a folder of its own below ``out``."""
    specs = [make_run_spec(one, out, parent=True, shard=shard) for one in options]
    return run_specs(specs, executor, display)


def run_specs(
    specs: Sequence[RunSpec], executor: Executor | None = None, display: Quiet | None = None
) -> list[Run]:
    return Scheduler(specs, executor or local(), display or Quiet()).work()


def essence(result: EvalResult | Path) -> object:
    """Everything that must not depend on which worker did the work, and when."""
    if isinstance(result, Path):
        result = read_result(result)
    value = result.model_dump(exclude={"created", "environment"})
    for column in (*value["columns"].values(), value["worst_case"]):
        column["seconds"] = 0
        for attack in column.get("attacks", ()):
            attack["seconds"] = 0
    return value
