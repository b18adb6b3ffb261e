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

import pytest
import torch
from executors.conftest import OBJECT_STORE, TRAINED
from executors.helping import Quiet, essence, work

from robust_eval import data, evaluation
from robust_eval.executors.cluster import Granted
from robust_eval.prepare import Options, prepare
from robust_eval.work import Run

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def alone(options: Options, tmp_path: Path) -> object:
    """One process, one unit after the other, as many threads as a worker has."""
    torch.set_num_threads(1)
    return essence(evaluation.execute(prepare(options), tmp_path / "alone", command=options.command()))


@pytest.fixture
def place(ray_cluster: Granted, request: pytest.FixtureRequest) -> Iterator[object]:
    from robust_eval.executors.ray import RayExecutor

    workers = getattr(request, "param", 2)
    executor = RayExecutor(replace(ray_cluster, workers=workers))
    yield executor
    executor.close()


@pytest.mark.parametrize("place", [pytest.param(1, marks=pytest.mark.slow), 2], indirect=True)
def test_one_worker_or_two_give_the_row_of_this_process(
    options: Options, alone: object, tmp_path: Path, place: object
) -> None:
    (run,) = work([options], place, tmp_path)  # type: ignore[arg-type]
    assert not run.failures
    assert run.folder is not None
    assert essence(run.folder / "result.json") == alone
    states = place.workers()  # type: ignore[attr-defined]
    assert sum(state.tasks for state in states) >= len(run.units)
    assert all(0 < state.utilisation <= 1 for state in states)


def kill_at(places: Sequence[int], executor: object) -> Quiet:
    """Kill a worker, one at random, when so many units are done."""
    left, draw = list(places), random.Random(0)

    def each(runs: Sequence[Run]) -> None:
        if left and sum(run.done for run in runs) >= left[0]:
            pids = executor.pids  # type: ignore[attr-defined]
            if pids:
                left.pop(0)
                os.kill(draw.choice(pids), signal.SIGKILL)

    return Quiet(each)


def test_a_worker_that_is_killed_costs_its_unit_in_flight(
    options: Options, alone: object, tmp_path: Path, place: object
) -> None:
    display = kill_at([7], place)
    (run,) = work([options], place, tmp_path, display)  # type: ignore[arg-type]
    assert run.folder is not None
    assert essence(run.folder / "result.json") == alone
    told = [text for text in display.said if "died" in text or "vanished" in text]
    assert not told or "examples (unit " in told[0] or "look" in told[0]


@pytest.mark.slow
def test_twenty_workers_killed_at_random(
    options: Options, alone: object, tmp_path: Path, place: object
) -> None:
    more = replace(options, seed=1)
    display = kill_at(range(1, 41, 2), place)
    first, second = work([options, more], place, tmp_path, display)  # type: ignore[arg-type]
    assert not first.failures
    assert not second.failures
    assert first.folder is not None
    assert essence(first.folder / "result.json") == alone


@pytest.mark.slow
def test_a_unit_that_kills_every_worker_is_given_up(
    options: Options, tmp_path: Path, place: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robust_eval.executors import ray as executor

    monkeypatch.setattr(executor, "DEATHS", 2)

    def each(runs: Sequence[Run]) -> None:
        for actor in place._actors:  # type: ignore[attr-defined]
            if actor.task is not None and "cw-3" in actor.task.label and actor.pid:
                os.kill(actor.pid, signal.SIGKILL)
                actor.pid = 0

    one = replace(options, examples=10)
    display = Quiet(each)
    (run,) = work([one], place, tmp_path, display)  # type: ignore[arg-type]
    if run.failures:  # the unit may be quicker than the kill
        assert "cw-3 on " in run.failures[0]
        assert "failed 2 times, the last time on" in run.failures[0]
        assert "the worker's process" in run.failures[0]
        assert run.result is not None
        assert run.result.missing == ("chain",)


@pytest.mark.slow
def test_an_attack_that_fails_is_tried_elsewhere_and_named(
    options: Options, tmp_path: Path, place: object
) -> None:
    broken = tmp_path / "net.py"
    broken.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = torch.nn.Linear(64, 10, bias=False)\n"
        "    def forward(self, x):\n"
        "        if x.requires_grad and len(x) in (9, 10):\n"
        "            raise RuntimeError('planted')\n"
        "        return self.linear(x.flatten(1))\n"
        "def build():\n"
        "    return Net()\n"
    )
    x, y = data.load("digits").tensors()
    fitted = torch.linalg.lstsq(x.flatten(1), torch.eye(10)[y], driver="gelsd").solution
    torch.save({"linear.weight": fitted.T.contiguous()}, tmp_path / "net.pt")
    one = replace(
        options,
        checkpoint=str(tmp_path / "net.pt"),
        arch=f"{broken}:build",
        normalisation="none",
        suite="pgd-10",
    )
    display = Quiet()
    (run,) = work([one], place, tmp_path, display)  # type: ignore[arg-type]
    assert "pgd-10 on" in run.failures[0]
    assert "failed 2 times" in run.failures[0]
    assert "planted" in run.failures[0]
    assert any("attempt 2 follows" in text for text in display.said)


@pytest.mark.slow
def test_more_evidence_than_the_object_store_holds(
    tmp_path: Path, ray_cluster: Granted, options: Options
) -> None:
    """Units whose images fill the store several times over: Ray spills, the run does not notice."""
    from robust_eval.executors.ray import RayExecutor

    holder = [ray.put(b"x" * (OBJECT_STORE // 3)) for _ in range(5)]
    executor = RayExecutor(ray_cluster)
    try:
        (run,) = work([replace(options, eps="0.5")], executor, tmp_path)
    finally:
        executor.close()
    assert len(holder) == 5
    assert run.result is not None
    assert run.result.status == "complete"


SCRIPT = """
import sys
from robust_eval.cli import main
sys.argv = ["robust-eval", *sys.argv[1:]]
main()
"""


@pytest.mark.slow
def test_a_killed_driver_leaves_a_folder_that_goes_on(
    options: Options, alone: object, tmp_path: Path
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
