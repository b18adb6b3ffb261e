"""A run killed at any moment loses at most the unit in flight, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robust_eval.schema import EvalResult, read_result
from robust_eval.store import FolderStore

# A run of several small units in a process of its own; the model is linear, so that units are short.
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
from known_models import linear_problem
from robust_eval import evaluate
model, x, y = linear_problem(n=60)
evaluate(model, x, y, "Linf 0.04", suite="fgsm,pgd-20,pgd-100,cw-inf", batch_size=6, out=sys.argv[1])
"""
UNITS = 10 + 4 * 9


def start(folder: Path) -> subprocess.Popen[bytes]:
    tests = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", SCRIPT, str(folder), str(tests)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def stored(folder: Path) -> int:
    return len(list((folder / "units").glob("*.npz")))


def interrupt_after(folder: Path, units: int, with_signal: signal.Signals) -> int:
    """Stop the run once so many units are on disk; the exit code."""
    process = start(folder)
    deadline = time.monotonic() + 60
    while process.poll() is None and stored(folder) < units and time.monotonic() < deadline:
        time.sleep(0.002)
    if process.poll() is None:
        process.send_signal(with_signal)
    return process.wait(60)


def essence(result: EvalResult) -> object:
    """All that must not depend on interruptions; times and dates do."""
    kept = {}
    for name, column in result.columns.items():
        attacks = [attack.model_copy(update={"seconds": 0.0}) for attack in column.attacks]
        kept[name] = column.model_copy(update={"seconds": 0.0, "attacks": tuple(attacks)})
    return kept, result.flags, result.worst_case.robust_bits, result.evidence


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> EvalResult:
    folder = tmp_path_factory.mktemp("whole")
    assert start(folder).wait(120) == 0
    assert stored(folder) <= UNITS
    return read_result(folder / "result.json")


def test_killed_again_and_again(tmp_path: Path, undisturbed: EvalResult) -> None:
    """SIGKILL at growing points; stored units only ever grow, and the end is the same."""
    before = 0
    for units in (1, 9, 20, 33):
        interrupt_after(tmp_path, units, signal.SIGKILL)
        assert stored(tmp_path) >= before
        before = stored(tmp_path)
        store = FolderStore(tmp_path)
        assert all(store.get(path.stem) is not None for path in (tmp_path / "units").glob("*.npz"))
    assert start(tmp_path).wait(120) == 0
    assert essence(read_result(tmp_path / "result.json")) == essence(undisturbed)


def test_ctrl_c_leaves_a_partial_result_that_says_what_is_missing(
    tmp_path: Path, undisturbed: EvalResult
) -> None:
    interrupt_after(tmp_path, 15, signal.SIGINT)
    partial = read_result(tmp_path / "result.json")
    assert partial.status == "partial"
    assert not partial.rankable
    assert partial.missing
    assert start(tmp_path).wait(120) == 0
    assert essence(read_result(tmp_path / "result.json")) == essence(undisturbed)


def test_a_damaged_unit_is_made_again(tmp_path: Path, undisturbed: EvalResult) -> None:
    assert start(tmp_path).wait(120) == 0
    units = sorted((tmp_path / "units").glob("*.npz"))
    units[0].write_bytes(units[0].read_bytes()[:50])
    units[1].unlink()
    assert start(tmp_path).wait(120) == 0
    assert essence(read_result(tmp_path / "result.json")) == essence(undisturbed)
