"""Retries of failed tasks: on which worker, and how often."""

from __future__ import annotations

from robust_eval.evaluation.executors import Task
from robust_eval.evaluation.executors.retries import CRASHES_BEFORE_LAST, MAX_CRASHES, MAX_ERRORS, Retries
from robust_eval.evaluation.planning.options import EvaluationOptions

OPTIONS = EvaluationOptions(checkpoint="model.pt")


def task(label: str = "unit") -> Task:
    return Task(OPTIONS, "unit", (), label)


def test_a_failed_task_is_retried_on_another_worker_if_possible() -> None:
    retries, unit = Retries(), task()
    assert retries.failed(unit, "one", died=False) == (1, True)
    assert retries.take("one", alone=False, suspect=False) is None
    assert retries.take("two", alone=False, suspect=False) is unit
    assert retries.failed(unit, "one", died=True) == (2, True)
    assert retries.take("one", alone=True, suspect=False) is unit


def test_a_task_that_crashed_two_workers_is_retried_last() -> None:
    retries, unit = Retries(), task()
    for crash in range(CRASHES_BEFORE_LAST):
        assert retries.take("two", alone=False, suspect=True) is None, crash
        retries.failed(unit, "one", died=True)
    assert retries.take("two", alone=False, suspect=False) is None
    assert retries.take("two", alone=False, suspect=True) is unit


def test_tasks_are_given_up_at_the_limits_and_a_success_resets_the_count() -> None:
    retries, crashing, faulty = Retries(), task("crashing"), task("faulty")
    for attempt in range(1, MAX_CRASHES):
        assert retries.failed(crashing, str(attempt), died=True) == (attempt, True)
        assert retries.take("other", alone=False, suspect=attempt >= CRASHES_BEFORE_LAST) is crashing
    assert retries.failed(crashing, "last", died=True) == (MAX_CRASHES, False)
    assert retries.take("other", alone=False, suspect=True) is None
    for _ in range(3):
        for attempt in range(1, MAX_ERRORS):
            assert retries.failed(faulty, "one", died=False) == (attempt, True)
            assert retries.take("two", alone=False, suspect=False) is faulty
        retries.succeeded(faulty)
