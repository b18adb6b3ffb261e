"""Which task is tried again, where, and how often."""

from __future__ import annotations

from robust_eval.evaluation.executors import Task
from robust_eval.evaluation.executors.retries import CRASHES_BEFORE_LAST, MAX_CRASHES, MAX_ERRORS, Retries
from robust_eval.evaluation.planning.options import EvaluationOptions

OPTIONS = EvaluationOptions(checkpoint="model.pt")


def task(label: str = "unit") -> Task:
    return Task(OPTIONS, "unit", (), label)


def test_a_failed_task_goes_to_another_worker_where_there_is_one() -> None:
    retries, unit = Retries(), task()
    assert retries.failed(unit, "one", died=False) == (1, True)
    assert retries.take("one", alone=False, suspect=False) is None
    assert retries.take("two", alone=False, suspect=False) is unit
    assert retries.failed(unit, "one", died=True) == (2, True)
    assert retries.take("one", alone=True, suspect=False) is unit


def test_what_was_there_at_two_deaths_waits_behind_everything() -> None:
    retries, unit = Retries(), task()
    for death in range(CRASHES_BEFORE_LAST):
        assert retries.take("two", alone=False, suspect=True) is None, death
        retries.failed(unit, "one", died=True)
    assert retries.take("two", alone=False, suspect=False) is None
    assert retries.take("two", alone=False, suspect=True) is unit


def test_in_the_end_it_is_given_up_and_a_success_clears_the_record() -> None:
    retries, deadly, faulty = Retries(), task("deadly"), task("faulty")
    for attempt in range(1, MAX_CRASHES):
        assert retries.failed(deadly, str(attempt), died=True) == (attempt, True)
        assert retries.take("other", alone=False, suspect=attempt >= CRASHES_BEFORE_LAST) is deadly
    assert retries.failed(deadly, "last", died=True) == (MAX_CRASHES, False)
    assert retries.take("other", alone=False, suspect=True) is None
    for _ in range(3):
        for attempt in range(1, MAX_ERRORS):
            assert retries.failed(faulty, "one", died=False) == (attempt, True)
            assert retries.take("two", alone=False, suspect=False) is faulty
        retries.succeeded(faulty)
