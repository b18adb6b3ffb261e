"""On a real Ray cluster of this machine: the same rows, whoever dies meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.fake_workers import OBJECT_STORE, TRAINED, Quiet, essence, work

from robust_eval import data
from robust_eval.core.errors import UserError
from robust_eval.evaluation import run as evaluation
from robust_eval.evaluation.executors import ray_addresses
from robust_eval.evaluation.executors.ray_cluster import GrantedResources
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def alone(options: EvaluationOptions, tmp_path: Path) -> object:
    """One process, one unit after the other, as many threads as a worker has."""
    torch.set_num_threads(1)
    return essence(evaluation.execute(prepare(options), tmp_path / "alone", command=options.command()))


@pytest.fixture
def place(ray_cluster: GrantedResources, request: pytest.FixtureRequest) -> Iterator[object]:
    from robust_eval.evaluation.executors.ray import RayExecutor

    workers = getattr(request, "param", 2)
    executor = RayExecutor(replace(ray_cluster, workers=workers))
    yield executor
    executor.close()


@pytest.mark.parametrize("place", [pytest.param(1, marks=pytest.mark.slow), 2], indirect=True)
def test_one_worker_or_two_give_the_row_of_this_process(
    options: EvaluationOptions, alone: object, tmp_path: Path, place: object
) -> None:
    (run,) = work([options], place, tmp_path)  # type: ignore[arg-type]
    assert not run.failures
    assert run.folder is not None
    assert essence(run.folder / "result.json") == alone
    states = place.workers()  # type: ignore[attr-defined]
    assert sum(state.tasks for state in states) >= len(run.running.units)
    assert all(0 < state.utilisation <= 1 for state in states)


def test_a_head_that_is_silent_for_long_ends_the_run_with_a_sentence(
    options: EvaluationOptions, tmp_path: Path, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself would end the process without a word."""
    from robust_eval.evaluation.executors import ray as executors_ray

    monkeypatch.setattr(executors_ray, "HEAD_SECONDS", 0.2)

    def gone(runs: Sequence[Run]) -> None:
        if sum(run.running.done for run in runs if run.running) >= 5:
            monkeypatch.setattr(ray_addresses, "answers", lambda _: False)

    with pytest.raises(
        UserError, match="The cluster's head at .* has not answered for .* Finished work is kept"
    ):
        work([options], place, tmp_path, Quiet(gone))
    assert place._head_lost
    assert len(list(tmp_path.glob("**/units/*.npz"))) >= 5
    place._head_lost = False  # It was not: the workers are to be ended after the test.


def test_nothing_waits_for_a_worker_that_has_not_come_up(options: EvaluationOptions) -> None:
    """Its node may be lost for good: what failed on the other worker is tried there again."""
    from robust_eval.evaluation.executors import Task, WorkerState
    from robust_eval.evaluation.executors import ray as executors_ray
    from robust_eval.evaluation.executors.retries import Retries

    asked: list[str] = []

    class Handle:
        class run_task:  # noqa: N801
            @staticmethod
            def remote(method: str, *arguments: object) -> str:
                asked.append(method)
                return "under way"

    executor = executors_ray.RayExecutor.__new__(executors_ray.RayExecutor)
    up = executors_ray._Actor(Handle(), WorkerState("one", "idle"), None, 0.0)
    lost = executors_ray._Actor(Handle(), WorkerState("two"), "never ready", 0.0)
    executor._retries, executor._events, executor._actors = Retries(), [], [up, lost]
    executor._retry(Task(options, "unit", (), "a unit"), up, "RuntimeError: once", died=False)
    executor.feed(lambda loaded: None)
    assert asked == ["unit"]


class Killing(Quiet):
    """Kills a busy worker, one at random, when so many units are done; ``killed`` holds the process ids."""

    def __init__(self, places: Sequence[int], executor: Any) -> None:
        super().__init__(self._each)
        self._left, self._executor, self._draw = list(places), executor, random.Random(0)
        self.killed: list[int] = []

    def _each(self, runs: Sequence[Run]) -> None:
        if not self._left or sum(run.running.done for run in runs if run.running) < self._left[0]:
            return
        busy = [actor.pid for actor in self._executor._actors if actor.task is not None and actor.pid]
        alive = [pid for pid in busy if pid not in self.killed]
        if alive:
            self._left.pop(0)
            self.killed.append(self._draw.choice(alive))
            os.kill(self.killed[-1], signal.SIGKILL)


def test_a_worker_that_is_killed_costs_its_unit_in_flight(
    options: EvaluationOptions, alone: object, tmp_path: Path, place: Any
) -> None:
    display = Killing([7], place)
    (run,) = work([options], place, tmp_path, display)
    assert len(display.killed) == 1
    assert run.folder is not None
    assert essence(run.folder / "result.json") == alone


@pytest.mark.slow
def test_twenty_workers_killed_at_random(
    options: EvaluationOptions, alone: object, tmp_path: Path, place: Any
) -> None:
    display = Killing(range(1, 41, 2), place)
    runs = work([replace(options, seed=seed) for seed in range(4)], place, tmp_path, display)
    assert len(set(display.killed)) == 20
    assert any("the worker's process" in text and "attempt 2 follows" in text for text in display.logged)
    assert [run.failures for run in runs] == [[]] * 4
    assert runs[0].folder is not None
    assert essence(runs[0].folder / "result.json") == alone


# Waits on batches of the sizes that units have, so that a kill can hit it.
SLOW_NETWORK = """
import time
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(64, 10, bias=False)
    def forward(self, x):
        if x.requires_grad and len(x) in (9, 10):
            time.sleep(0.5)
        return self.linear(x.flatten(1))
def build():
    return Net()
"""


def fitted(folder: Path, code: str) -> dict[str, Any]:
    """Options of a linear network, least squares on digits, whose file is ``code``."""
    (folder / "net.py").write_text(code)
    x, y = data.load("digits").tensors()
    weights = torch.linalg.lstsq(x.flatten(1), torch.eye(10)[y], driver="gelsd").solution
    torch.save({"linear.weight": weights.T.contiguous()}, folder / "net.pt")
    return {
        "checkpoint": str(folder / "net.pt"),
        "arch": f"{folder / 'net.py'}:build",
        "normalisation": "none",
        "suite": "pgd-10",
    }


@pytest.mark.slow
def test_a_unit_that_kills_every_worker_is_given_up(
    options: EvaluationOptions, tmp_path: Path, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robust_eval.evaluation.executors import retries

    monkeypatch.setattr(retries, "MAX_CRASHES", 2)
    killed: set[int] = set()

    def each(runs: Sequence[Run]) -> None:
        for actor in place._actors:
            if actor.task is not None and "pgd-10" in actor.task.label and actor.pid not in killed:
                killed.add(actor.pid)
                os.kill(actor.pid, signal.SIGKILL)

    one = replace(options, examples=10, **fitted(tmp_path, SLOW_NETWORK))
    (run,) = work([one], place, tmp_path, Quiet(each))
    assert len(killed) == 2
    assert "pgd-10 on " in run.failures[0]
    assert "failed 2 times, the last time on" in run.failures[0]
    assert "the worker's process" in run.failures[0]
    assert run.result is not None
    assert run.result.missing == ("pgd-10",)


@pytest.mark.slow
def test_an_attack_that_fails_is_tried_elsewhere_and_named(
    options: EvaluationOptions, tmp_path: Path, place: Any
) -> None:
    code = SLOW_NETWORK.replace("time.sleep(0.5)", "raise RuntimeError('planted')")
    display = Quiet()
    (run,) = work([replace(options, **fitted(tmp_path, code))], place, tmp_path, display)
    assert "pgd-10 on" in run.failures[0]
    assert "failed 2 times" in run.failures[0]
    assert "planted" in run.failures[0]
    assert any("attempt 2 follows" in text for text in display.logged)


FLAT = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(96 * 96 * 3, 4, bias=False)
    def forward(self, x):
        return self.linear(x.flatten(1))
def build():
    return Net()
"""


@pytest.mark.slow
def test_more_evidence_than_the_object_store_holds(
    tmp_path: Path, ray_cluster: GrantedResources, options: EvaluationOptions
) -> None:
    """Results too large to travel inside a message, through a store that others have filled: Ray spills."""
    from robust_eval.evaluation.executors.ray import RayExecutor

    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (40, 96, 96, 3), dtype=np.uint8)
    np.savez(tmp_path / "noise.npz", x=noise, y=np.arange(40) % 4)
    (tmp_path / "flat.py").write_text(FLAT)
    x, y = data.load(f"npz:{tmp_path / 'noise.npz'}").tensors()
    weights = torch.linalg.lstsq(x.flatten(1), torch.eye(4)[y], driver="gelsd").solution
    torch.save({"linear.weight": weights.T.contiguous()}, tmp_path / "flat.pt")
    one = replace(
        options,
        checkpoint=str(tmp_path / "flat.pt"),
        arch=f"{tmp_path / 'flat.py'}:build",
        data=f"npz:{tmp_path / 'noise.npz'}",
        normalisation="none",
        suite="fgsm",
        examples=None,
        eps="0.4",
    )
    filled = [ray.put(draw.bytes(OBJECT_STORE // 3)) for _ in range(6)]
    executor = RayExecutor(ray_cluster)
    try:
        (run,) = work([one], executor, tmp_path)
    finally:
        executor.close()
    assert len(filled) == 6, "held to the end: twice the store"
    assert run.store is not None
    largest = max(run.store.path(key).stat().st_size for key in run.units)
    assert largest > 200_000, "Ray sends less than 100 kB without the store"
    assert run.result is not None
    here = evaluation.execute(prepare(one), tmp_path / "here", command=one.command())
    assert essence(run.result) == essence(here)


def test_cause_a_worker_died_is_not_read_off_rays_list_of_guesses() -> None:
    from robust_eval.evaluation.executors.ray import _cause

    guesses = (
        "Some common causes include: (1) the process was killed by the OOM killer due to high memory usage"
    )
    died = ray.exceptions.RayActorError(error_msg=f"The actor died unexpectedly. {guesses}")
    assert _cause(died) == "the worker's process died"
    low = ray.exceptions.RayActorError(error_msg="Task was killed due to the node running low on memory.")
    assert _cause(low) == "the node ran out of memory"
    assert _cause(ray.exceptions.OutOfMemoryError("x")) == "the node ran out of memory"


SCRIPT = """
import sys
from robust_eval.cli import main
sys.argv = ["robust-eval", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_a_folder_that_goes_on(
    options: EvaluationOptions, alone: object, tmp_path: Path
) -> None:
    words = ["run", str(TRAINED), "--suite", options.suite, "--data", "digits", "--examples", "60"]
    words += ["--eps", "0.1", "--batch-size", "10", "--executor", "ray", "--workers", "2"]
    command = [sys.executable, "-c", SCRIPT, *words, "--address", "local", "--out", str(tmp_path / "out")]
    units = tmp_path / "out" / "units"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        if units.is_dir() and len(list(units.glob("*.npz"))) >= 5:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in units.glob("*.npz")}
    assert len(before) >= 5
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: (units / name).stat().st_mtime_ns for name in before} == before
    assert essence(tmp_path / "out" / "result.json") == alone
