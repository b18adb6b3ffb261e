"""Evaluations in local processes: the same results as in one process, also if processes are killed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.fake_workers import RecordingDisplay, run_options, without_times

from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import processes
from robust_eval.evaluation.executors.machine import MachineExecutor, choose_workers, gpus
from robust_eval.evaluation.executors.processes import ProcessExecutor
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.planning.worker_count import WorkerPlan
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.run import execute

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def sequential(options: EvaluationOptions, tmp_path: Path) -> object:
    """The result of one process that runs the units in sequence, with as many threads as a worker."""
    torch.set_num_threads(1)
    return without_times(execute(prepare(options), tmp_path / "sequential", command=options.command()))


class KillingDisplay(RecordingDisplay):
    """Kills a random busy process each time the number of finished units reaches a threshold."""

    def __init__(self, thresholds: Sequence[int], executor: MachineExecutor) -> None:
        super().__init__(self._kill)
        self._thresholds, self._executor, self._draw = list(thresholds), executor, random.Random(0)
        self.killed: list[int] = []

    def _kill(self, runs: Sequence[Run]) -> None:
        done = sum(run.running.done for run in runs if run.running)
        pool = self._executor._current
        if not self._thresholds or done < self._thresholds[0] or not isinstance(pool, ProcessExecutor):
            return
        busy = [one.process._process.pid for one in pool._workers if one.task is not None]
        alive = [pid for pid in busy if pid not in self.killed]
        if alive:
            self._thresholds.pop(0)
            self.killed.append(self._draw.choice(alive))
            os.kill(self.killed[-1], signal.SIGKILL)


@pytest.fixture
def executor() -> Iterator[MachineExecutor]:
    found = MachineExecutor(2, 1, lambda _: None)
    yield found
    found.close()


def children(executor: MachineExecutor) -> list[int]:
    assert isinstance(executor._current, ProcessExecutor)
    return [worker.process._process.pid for worker in executor._current._workers]


def test_two_checkpoints_in_processes_that_are_killed(
    options: EvaluationOptions, sequential: object, tmp_path: Path, executor: MachineExecutor
) -> None:
    """The second request is loaded by a process, the first one by the command itself."""
    display = KillingDisplay([5, 12], executor)
    runs = run_options([options, replace(options, seed=1)], executor, tmp_path / "runs", display)
    assert [run.failures for run in runs] == [[], []]
    assert len(display.killed) == 2
    assert any("ended by SIGKILL" in text and "attempt 2 follows" in text for text in display.logged)
    assert runs[0].folder is not None
    assert without_times(runs[0].folder / "result.json") == sequential
    states = executor.workers()
    assert len(states) == 2
    assert all(0 < state.utilisation <= 1 for state in states)
    pids = children(executor)
    executor.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.slow
def test_twenty_kills(
    options: EvaluationOptions, sequential: object, tmp_path: Path, executor: MachineExecutor
) -> None:
    display = KillingDisplay(range(1, 41, 2), executor)
    requests = [replace(options, seed=seed) for seed in range(4)]
    runs = run_options(requests, executor, tmp_path / "runs", display)
    assert len(set(display.killed)) == 20
    assert [run.failures for run in runs] == [[]] * 4
    assert runs[0].folder is not None
    assert without_times(runs[0].folder / "result.json") == sequential


def test_one_process_is_this_one(options: EvaluationOptions, tmp_path: Path) -> None:
    executor = MachineExecutor(1, None, lambda _: None)
    (run,) = run_options([options], executor, tmp_path / "runs")
    assert run.result is not None
    assert executor.size == 1
    assert not isinstance(executor._current, ProcessExecutor)


def test_processes_that_end_at_once_end_the_run() -> None:
    """No process can have fewer than one thread."""
    executor = ProcessExecutor(WorkerPlan(2, -1))
    try:
        with pytest.raises(UserError, match=r"end as soon as they start \(.*exit code 1\)\. Use --workers 1"):
            any(executor.wait(10) for _ in range(6))
    finally:
        executor.close()


def test_images_that_cannot_be_shared_are_loaded_by_each_process(
    options: EvaluationOptions, sequential: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processes.shared_images, "share", full)
    executor = MachineExecutor(2, 1, lambda _: None)
    try:
        (run,) = run_options([options], executor, tmp_path / "runs")
    finally:
        executor.close()
    assert run.folder is not None
    assert without_times(run.folder / "result.json") == sequential


def test_the_number_of_threads_is_restored(options: EvaluationOptions, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    executor = MachineExecutor(1, 1, lambda _: None)
    run_options([replace(options, suite="clean")], executor, tmp_path / "runs")
    assert torch.get_num_threads() == 1
    executor.close()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_each_gpu_has_a_process(
    options: EvaluationOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The devices are CPUs here, which have no numbers."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert gpus("auto") == ["cuda:0", "cuda:1", "cuda:2"]
    assert gpus("cuda:1") == gpus("cpu") == []
    monkeypatch.undo()
    executor = MachineExecutor(None, 1, lambda _: None, ["cpu", "cpu"])
    try:
        (run,) = run_options([replace(options, device="auto", suite="fgsm")], executor, tmp_path / "runs")
        assert isinstance(executor._current, ProcessExecutor)
        assert [worker.device for worker in executor._current._workers] == ["cpu", "cpu"]
    finally:
        executor.close()
    assert run.result is not None


def test_a_plan_needs_several_cores(options: EvaluationOptions) -> None:
    assert choose_workers(prepare(options), 1) == WorkerPlan(1, 1)
