"""What the tests of executors share: runs without a screen, and results without their times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from robust_eval.evaluation.executors import Executor, WorkerState
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.executors.scheduler import Pool
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.results import EvalResult, read_result


class Quiet:
    """Remembers what it was told; ``each`` is called at every tick."""

    def __init__(self, each: Callable[[Sequence[Run]], None] = lambda _: None) -> None:
        self.said: list[str] = []
        self.each = each

    def tick(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        self.each(runs)

    def say(self, text: str) -> None:
        self.said.append(text)


def work(
    options: Sequence[EvaluationOptions], place: Executor, out: Path, display: Quiet | None = None
) -> list[Run]:
    runs = [Run(one, number, out=out, several=True) for number, one in enumerate(options)]
    Pool(runs, place, display or Quiet()).work()
    return runs


def essence(result: EvalResult | Path) -> object:
    """All that must not depend on who did the work and when."""
    if isinstance(result, Path):
        result = read_result(result)
    value = result.model_dump(exclude={"created", "environment"})
    for column in (*value["columns"].values(), value["worst_case"]):
        column["seconds"] = 0
        for attack in column.get("attacks", ()):
            attack["seconds"] = 0
    return value
