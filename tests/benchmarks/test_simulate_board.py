"""The leaderboard simulation: bounds on the makespan, loads, and policies that must be slower."""

from __future__ import annotations

import json

import pytest

from benchmarks.scaling.board import units
from benchmarks.scaling.board.measured import Measured
from benchmarks.scaling.board.scheduler import POLICIES, simulate
from benchmarks.scaling.simulate_board import MEASURED


@pytest.fixture(scope="module")
def measured() -> Measured:
    return Measured(**json.loads(MEASURED.read_text()))


@pytest.mark.parametrize("gpus", [1, 8, 64])
def test_the_makespan_is_at_least_the_work_per_gpu_and_the_critical_path(
    measured: Measured, gpus: int
) -> None:
    found = simulate(measured, gpus, 2, POLICIES[0], 100.0)
    assert found.makespan >= found.work / gpus
    assert found.makespan >= 0.8 * found.chain, "durations are random"
    assert 0 < found.efficiency(gpus) <= 1


def test_one_gpu_loads_each_checkpoint_once(measured: Measured) -> None:
    assert simulate(measured, 1, 5, POLICIES[0], 100.0).loads == 5


def test_sequential_columns_take_longer(measured: Measured) -> None:
    as_built, serial = (simulate(measured, 16, 1, POLICIES[i], 100.0) for i in (0, -1))
    assert as_built.makespan < 0.95 * serial.makespan


def test_every_unit_is_done(measured: Measured) -> None:
    board = units.Board(units.board_request(0))
    count = len(board.clean) + sum(len(stage) for column in board.columns for stage in column)
    assert simulate(measured, 7, 3, POLICIES[0], 100.0).units == 3 * count
