"""Retries of failed tasks: on which worker, and how often."""

from __future__ import annotations

import re

from robust_eval.evaluation.executors import Event, Notice, Task, TaskDone, TaskFailed
from robust_eval.evaluation.executors.retries import CRASHES_BEFORE_LAST, MAX_CRASHES, MAX_ERRORS, Retries
from robust_eval.evaluation.planning.options import EvaluationOptions

OPTIONS = EvaluationOptions(checkpoint="model.pt")


def task(label: str = "unit") -> Task:
    return Task(OPTIONS, "unit", (), label)


def attempt(event: Event) -> int | None:
    """The number of the attempt that follows; None if none does."""
    found = re.search(r"attempt (\d+) follows", event.text) if isinstance(event, Notice) else None
    return int(found[1]) if found else None


def test_a_failed_task_is_retried_on_another_worker_if_possible() -> None:
    retries, unit = Retries(), task()
    first = retries.answered(unit, "one", "failed", "RuntimeError: once")
    assert first == Notice("unit on one: RuntimeError: once; attempt 2 follows.")
    assert retries.take("one", alone=False, suspect=False) is None
    assert retries.take("two", alone=False, suspect=False) is unit
    assert attempt(retries.failed(unit, "one", "it died", died=True)) == 3
    assert retries.take("one", alone=True, suspect=False) is unit


def test_a_task_that_crashed_two_workers_is_retried_last() -> None:
    retries, unit = Retries(), task()
    for crash in range(CRASHES_BEFORE_LAST):
        assert retries.take("two", alone=False, suspect=True) is None, crash
        retries.failed(unit, "one", "it died", died=True)
    assert retries.take("two", alone=False, suspect=False) is None
    assert retries.take("two", alone=False, suspect=True) is unit


def test_tasks_are_given_up_at_the_limits_and_a_success_resets_the_count() -> None:
    retries, crashing, faulty = Retries(), task("crashing"), task("faulty")
    for number in range(1, MAX_CRASHES):
        assert attempt(retries.failed(crashing, str(number), "it died", died=True)) == number + 1
        assert retries.take("other", alone=False, suspect=number >= CRASHES_BEFORE_LAST) is crashing
    given_up = retries.failed(crashing, "last", "it died", died=True)
    assert given_up == TaskFailed(crashing, "it died", "last", MAX_CRASHES)
    assert retries.take("other", alone=False, suspect=True) is None
    for _ in range(3):
        for number in range(1, MAX_ERRORS):
            assert attempt(retries.answered(faulty, "one", "failed", "wrong")) == number + 1
            assert retries.take("two", alone=False, suspect=False) is faulty
        assert retries.answered(faulty, "one", "done", 7) == TaskDone(faulty, 7, "one")


def test_a_refused_checkpoint_is_not_tried_again_but_a_refused_unit_is() -> None:
    loading = Task(OPTIONS, "load", (), "loading")
    refused = Retries().answered(loading, "one", "refused", "no such file")
    assert refused == TaskFailed(loading, "no such file", "one", 1)
    assert attempt(Retries().answered(task(), "one", "refused", "an attack failed")) == 2
