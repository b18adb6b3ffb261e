"""Logits computed in a fresh process, and the messages if this fails."""

from __future__ import annotations

import errno
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from robust_eval.core.errors import UserError
from robust_eval.evaluation import fresh_process
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.verification.selftest.cases_unmodified import CHECKPOINT, trained_job

needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs processes that fork"
)
BATCHES = [np.array([3, 0]), np.array([1])]


def options(checkpoint: object = CHECKPOINT) -> EvaluationOptions:
    return EvaluationOptions(
        checkpoint=str(checkpoint), data="digits", suite="clean", eps="0.1", device="cpu"
    )


def test_the_fresh_process_computes_the_logits_of_the_file() -> None:
    job = trained_job()
    found = fresh_process.logits(options(), job.request.checkpoint, job.x_NCHW[:5], BATCHES)
    with torch.no_grad():
        assert torch.allclose(found, job.model(job.x_NCHW[[3, 0, 1]]), atol=1e-5)


def test_relative_paths_are_those_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copy.safetensors").write_bytes(CHECKPOINT.read_bytes())
    monkeypatch.chdir(tmp_path)
    job = trained_job()
    known = replace(job.request.checkpoint, name="copy.safetensors")
    found = fresh_process.logits(options("copy.safetensors"), known, job.x_NCHW[:5], BATCHES)
    assert found.shape == (3, 10)


def test_a_missing_file_is_reported_without_its_path(tmp_path: Path) -> None:
    job = trained_job()
    with pytest.raises(UserError, match="could not be used in a fresh process") as caught:
        fresh_process.logits(options(tmp_path / "gone.pt"), job.request.checkpoint, job.x_NCHW[:5], BATCHES)
    assert "gone.pt" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_process_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(call: object, method: str) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(fresh_process, "_ask", refuse)
    job = trained_job()
    with pytest.raises(UserError, match=r"no fresh process could be run \(OSError\)"):
        fresh_process.logits(options(), job.request.checkpoint, job.x_NCHW[:5], BATCHES)


@needs_fork
def test_a_full_temporary_folder_only_costs_the_fork_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", refuse)
    assert fresh_process.start_server() == "spawn"


def test_a_script_without_a_main_guard_is_not_run_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from robust_eval.verification.selftest.cases_unmodified import trained_job\n"
        "import numpy as np\n"
        "job = trained_job()\n"
        "print('started')\n"
        "print(job.fresh_logits(job.x_NCHW[:5], [np.array([0, 1])]).shape)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["started", "torch.Size([2, 10])"]


def logits_in_a_fork(daemon: bool) -> object:
    """The shape of the logits that a fork of this process gets from a fresh process, or its error."""
    job = trained_job()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def ask() -> None:
        try:
            theirs.send(
                fresh_process.logits(options(), job.request.checkpoint, job.x_NCHW[:5], BATCHES).shape
            )
        except BaseException as error:
            theirs.send(error)

    process = context.Process(target=ask, daemon=daemon)
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    return answer


@needs_fork
def test_a_fork_of_a_process_that_has_a_server_runs_its_own_fresh_process() -> None:
    assert fresh_process.start_server() == "forkserver"
    assert logits_in_a_fork(daemon=False) == torch.Size([3, 10])


@needs_fork
def test_a_daemonic_process_reports_that_it_cannot_start_one() -> None:
    """As the workers of ``multiprocessing.Pool`` are."""
    error = logits_in_a_fork(daemon=True)
    assert isinstance(error, UserError)
    assert "a daemonic process cannot start one" in str(error)
