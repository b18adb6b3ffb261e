"""The number of local worker processes."""

from __future__ import annotations

import pytest

from robust_eval.evaluation.planning.worker_count import START, Machine, WorkerPlan, choose

LARGE = Machine(cores=16, processes=100)


def test_a_short_run_stays_in_one_process() -> None:
    assert choose(LARGE, seconds=START, speedup=1.0, parallel=50) == WorkerPlan(1, 16)


def test_a_network_that_keeps_all_threads_busy_stays_in_one_process() -> None:
    assert choose(LARGE, seconds=1e6, speedup=16.0, parallel=50) == WorkerPlan(1, 16)


def test_a_small_network_has_one_process_per_core() -> None:
    assert choose(LARGE, seconds=1e4, speedup=1.0, parallel=50) == WorkerPlan(16, 1)
    assert choose(LARGE, seconds=1e4, speedup=6.0, parallel=50) == WorkerPlan(16, 1)


@pytest.mark.parametrize(("processes", "parallel"), [(4, 50), (100, 4)])
def test_memory_and_units_limit_the_processes_whose_threads_use_the_other_cores(
    processes: int, parallel: int
) -> None:
    assert choose(Machine(16, processes), 1e4, 6.0, parallel) == WorkerPlan(4, 4)


def test_one_core_and_no_memory() -> None:
    assert choose(Machine(1, 100), 1e4, 1.0, 50) == WorkerPlan(1, 1)
    assert choose(Machine(16, 0), 1e4, 1.0, 50) == WorkerPlan(1, 16)
    assert choose(Machine(16, 100), 1e4, 1.0, 0) == WorkerPlan(1, 16)
