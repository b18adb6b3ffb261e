"""Evaluations on a local Ray cluster: the same results as in one process, also if workers are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.fake_workers import OBJECT_STORE, TRAINED, RecordingDisplay, run_options, without_times
from support.faulty_commands import descendants, wait_until

from robust_eval import data
from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import ray_addresses
from robust_eval.evaluation.executors.ray_cluster import GrantedResources
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.prepare import prepare
from robust_eval.evaluation.run import execute

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(600)


@contextmanager
def started(granted: GrantedResources) -> Iterator[Any]:
    from robust_eval.evaluation.executors.ray import RayExecutor

    executor = RayExecutor(granted)
    try:
        yield executor
    finally:
        executor.close()


@pytest.fixture
def ray_executor(ray_cluster: GrantedResources) -> Iterator[Any]:
    with started(ray_cluster) as executor:
        yield executor


@pytest.fixture(scope="class")
def shared_executor(ray_cluster: GrantedResources) -> Iterator[Any]:
    """Two workers for the tests of a class: each imports torch, which takes seconds."""
    with started(ray_cluster) as executor:
        yield executor


def check_the_result(options: EvaluationOptions, sequential: object, out: Path, executor: Any) -> None:
    (run,) = run_options([options], executor, out)
    assert not run.failures
    assert run.folder is not None
    assert run.running is not None
    assert without_times(run.folder / "result.json") == sequential
    states = executor.workers()
    assert sum(state.tasks for state in states) >= len(run.running.units)
    assert all(0 < state.utilisation <= 1 for state in states)


@pytest.mark.slow
def test_one_ray_worker_gives_the_result_of_one_process(
    options: EvaluationOptions, sequential: object, tmp_path: Path, ray_cluster: GrantedResources
) -> None:
    with started(replace(ray_cluster, workers=1)) as executor:
        check_the_result(options, sequential, tmp_path, executor)


def test_a_retry_does_not_wait_for_a_worker_that_is_not_ready(options: EvaluationOptions) -> None:
    """Its node may be lost; the failed task is tried again on the worker that is ready."""
    from robust_eval.evaluation.executors import Task, WorkerState
    from robust_eval.evaluation.executors.ray import RayExecutor, _Actor
    from robust_eval.evaluation.executors.retries import Retries

    submitted: list[str] = []

    class Handle:
        class run_task:  # noqa: N801
            @staticmethod
            def remote(method: str, *arguments: object) -> str:
                submitted.append(method)
                return "pending"

    executor = RayExecutor.__new__(RayExecutor)
    up = _Actor(Handle(), WorkerState("one", "idle"), None, 0.0)
    lost = _Actor(Handle(), WorkerState("two"), "never ready", 0.0)
    executor._retries, executor._events, executor._actors = Retries(), [], [up, lost]
    executor._retries.failed(Task(options, "unit", (), "a unit"), "one", "RuntimeError: once", died=False)
    executor.feed(lambda loaded: None)
    assert submitted == ["unit"]


class KillingDisplay(RecordingDisplay):
    """Kills a random busy worker each time the number of finished units reaches a threshold.

    ``killed``: process ids of the killed workers.
    """

    def __init__(self, thresholds: Sequence[int], executor: Any) -> None:
        super().__init__(self._kill_a_worker)
        self._thresholds, self._executor, self._draw = list(thresholds), executor, random.Random(0)
        self.killed: list[int] = []

    def _kill_a_worker(self, runs: Sequence[Run]) -> None:
        if not self._thresholds or sum(run.running.done for run in runs if run.running) < self._thresholds[0]:
            return
        busy = [actor.pid for actor in self._executor._actors if actor.task is not None and actor.pid]
        alive = [pid for pid in busy if pid not in self.killed]
        if alive:
            self._thresholds.pop(0)
            self.killed.append(self._draw.choice(alive))
            os.kill(self.killed[-1], signal.SIGKILL)


class TestTwoWorkers:
    """The last test leaves tasks that are under way."""

    @pytest.mark.slow
    def test_they_give_the_result_of_one_process(
        self, options: EvaluationOptions, sequential: object, tmp_path: Path, shared_executor: Any
    ) -> None:
        check_the_result(options, sequential, tmp_path, shared_executor)

    def test_the_result_is_unchanged_if_a_worker_is_killed(
        self, options: EvaluationOptions, sequential: object, tmp_path: Path, shared_executor: Any
    ) -> None:
        display = KillingDisplay([7], shared_executor)
        (run,) = run_options([options], shared_executor, tmp_path, display)
        assert len(display.killed) == 1
        assert run.folder is not None
        assert without_times(run.folder / "result.json") == sequential

    def test_a_head_that_does_not_answer_ends_the_run_with_an_error(
        self,
        options: EvaluationOptions,
        tmp_path: Path,
        shared_executor: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Ray itself would end the process without a message."""
        monkeypatch.setattr("robust_eval.evaluation.executors.ray.HEAD_SECONDS", 0.2)

        def lose_the_head(runs: Sequence[Run]) -> None:
            if sum(run.running.done for run in runs if run.running) >= 5:
                monkeypatch.setattr(ray_addresses, "answers", lambda _: False)

        with pytest.raises(
            UserError, match="The cluster's head at .* has not answered for .* Finished work is kept"
        ):
            run_options([options], shared_executor, tmp_path, RecordingDisplay(lose_the_head))
        assert shared_executor._head_lost
        assert len(list(tmp_path.glob("**/units/*.npz"))) >= 5
        # The head was not lost: the workers must be stopped after the test.
        shared_executor._head_lost = False


@pytest.mark.slow
def test_the_result_is_unchanged_if_twenty_workers_are_killed(
    options: EvaluationOptions, sequential: object, tmp_path: Path, ray_executor: Any
) -> None:
    display = KillingDisplay(range(1, 41, 2), ray_executor)
    runs = run_options([replace(options, seed=seed) for seed in range(4)], ray_executor, tmp_path, display)
    assert len(set(display.killed)) == 20
    assert any("the worker's process" in text and "attempt 2 follows" in text for text in display.logged)
    assert [run.failures for run in runs] == [[]] * 4
    assert runs[0].folder is not None
    assert without_times(runs[0].folder / "result.json") == sequential


# Slow on batches of the size of a unit, so that a worker can be killed during one.
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
    """Options of a linear network with source ``code`` and weights fitted to digits by least squares."""
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
def test_a_unit_that_crashes_every_worker_is_given_up(
    options: EvaluationOptions, tmp_path: Path, ray_executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robust_eval.evaluation.executors import retries

    monkeypatch.setattr(retries, "MAX_CRASHES", 2)
    killed: set[int] = set()

    def kill_at_pgd(runs: Sequence[Run]) -> None:
        for actor in ray_executor._actors:
            if actor.task is not None and "pgd-10" in actor.task.label and actor.pid not in killed:
                killed.add(actor.pid)
                os.kill(actor.pid, signal.SIGKILL)

    one = replace(options, examples=10, **fitted(tmp_path, SLOW_NETWORK))
    (run,) = run_options([one], ray_executor, tmp_path, RecordingDisplay(kill_at_pgd))
    assert len(killed) == 2
    assert "pgd-10 on " in run.failures[0]
    assert "failed 2 times, the last time on" in run.failures[0]
    assert "the worker's process" in run.failures[0]
    assert run.result is not None
    assert run.result.missing == ("pgd-10",)


@pytest.mark.slow
def test_a_failing_attack_is_tried_on_another_worker_and_reported(
    options: EvaluationOptions, tmp_path: Path, ray_executor: Any
) -> None:
    code = SLOW_NETWORK.replace("time.sleep(0.5)", "raise RuntimeError('planted')")
    display = RecordingDisplay()
    (run,) = run_options([replace(options, **fitted(tmp_path, code))], ray_executor, tmp_path, display)
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
    """Results too large for a message go through an object store that is already full: Ray spills to disk."""
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
        (run,) = run_options([one], executor, tmp_path)
    finally:
        executor.close()
    assert len(filled) == 6, "the references keep twice the size of the store in use"
    assert run.folder is not None
    assert run.running is not None
    units = [run.folder / "units" / f"{key}.npz" for key in run.running.units]
    largest = max(path.stat().st_size for path in units)
    assert largest > 200_000, "Ray sends results below 100 kB without the object store"
    assert run.result is not None
    expected = execute(prepare(one), tmp_path / "expected", command=one.command())
    assert without_times(run.result) == without_times(expected)


def test_rays_list_of_possible_causes_is_not_taken_as_the_cause_of_a_crash() -> None:
    from robust_eval.evaluation.executors.ray import _cause

    possible_causes = (
        "Some common causes include: (1) the process was killed by the OOM killer due to high memory usage"
    )
    crash = ray.exceptions.RayActorError(error_msg=f"The actor died unexpectedly. {possible_causes}")
    assert _cause(crash) == "the worker's process died"
    low = ray.exceptions.RayActorError(error_msg="Task was killed due to the node running low on memory.")
    assert _cause(low) == "the node ran out of memory"
    assert _cause(ray.exceptions.OutOfMemoryError("x")) == "the node ran out of memory"


MARK = "ROBUST_EVAL_TEST"
"""An environment variable that all processes of a command inherit."""
RUN = """
import sys
from robust_eval.cli.main import main
sys.argv = ["robust-eval", *sys.argv[1:]]
main()
"""


def marked_processes(mark: str) -> list[str]:
    """The command lines of the processes with this value of MARK in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text().replace("\0", " "))
    return found


def command(options: EvaluationOptions, out: Path, address: str) -> list[str]:
    words = ["run", str(TRAINED), "--suite", options.suite, "--data", "digits", "--examples", "30"]
    words += ["--eps", "0.1", "--batch-size", str(options.batch_size), "--executor", "ray", "--workers", "2"]
    return [sys.executable, "-c", RUN, *words, "--address", address, "--out", str(out)]


def stored(out: Path) -> dict[str, int]:
    """When each unit was written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "units").glob("*.npz")}


def kill_after_a_unit(words: Sequence[str], out: Path, **environment: str) -> None:
    """Start a command, and kill it with SIGKILL when it has stored a unit; all stored ones are kept."""
    before, quiet = stored(out), subprocess.DEVNULL
    process = subprocess.Popen(words, env={**os.environ, **environment}, stdout=quiet, stderr=quiet)
    wait_until(lambda: len(stored(out)) > len(before) or process.poll() is not None)
    assert process.poll() is None, "the run ended before it was killed"
    process.kill()
    process.wait()
    assert before.items() <= stored(out).items(), "a stored unit was computed again"


def finish(words: Sequence[str], out: Path) -> object:
    """The result of a command that continues a run."""
    before = stored(out)
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert before.items() <= stored(out).items(), "a stored unit was computed again"
    return without_times(out / "result.json")


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")


@needs_proc
@pytest.mark.slow
def test_a_private_cluster_ends_with_its_driver_and_the_run_continues(
    options: EvaluationOptions, sequential: object, tmp_path: Path
) -> None:
    out, mark = tmp_path / "out", f"{tmp_path.name}-{os.getpid()}"
    words = command(options, out, "local")
    kill_after_a_unit(words, out, **{MARK: mark})
    wait_until(lambda: not marked_processes(mark))
    assert finish(words, out) == sequential


def workers_of_clusters() -> list[int]:
    """The processes of the workers on the cluster that this process has started."""
    found = []
    for process in descendants(os.getpid()):
        with suppress(OSError):
            if b"HostProcess" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_continues_after_its_driver_was_killed_twenty_times(
    options: EvaluationOptions, ray_cluster: GrantedResources, tmp_path: Path
) -> None:
    options, out = replace(options, batch_size=1), tmp_path / "out"
    torch.set_num_threads(1)
    sequential = execute(prepare(options), tmp_path / "sequential", command=options.command())
    words = command(options, out, str(ray.get_runtime_context().gcs_address))
    for _ in range(20):
        kill_after_a_unit(words, out)
        wait_until(lambda: not workers_of_clusters())
    assert finish(words, out) == without_times(sequential)
    wait_until(lambda: not workers_of_clusters())
