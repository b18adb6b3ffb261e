"""A run killed at any moment loses at most the unit in flight, and ends as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from support.known_models import run_in_small_units

from robust_eval.evaluation.store import FolderStore
from robust_eval.results import EvalResult, read_result

UNITS = 4 * 25


def start(folder: Path, pause: float = 0.0) -> BaseProcess:
    """A process of its own, forked from a server that has imported the heavy libraries once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["robust_eval.evaluation.run", "robust_eval.attacks._art"])
    process = context.Process(target=run_in_small_units, args=(str(folder), pause))
    process.start()
    return process


def finish(folder: Path) -> None:
    process = start(folder)
    process.join(120)
    assert process.exitcode == 0


def stored(folder: Path) -> int:
    return len(list((folder / "units").glob("*.npz")))


def interrupt_after(folder: Path, units: int, with_signal: signal.Signals) -> None:
    """Stop the run once so many units are on disk."""
    process = start(folder, pause=0.02)
    assert process.pid is not None
    deadline = time.monotonic() + 60
    while process.is_alive() and stored(folder) < units and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.is_alive(), "it ended before it could be stopped"
    os.kill(process.pid, with_signal)
    process.join(60)


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
    finish(folder)
    assert stored(folder) <= UNITS
    return read_result(folder / "result.json")


def test_killed_again_and_again(tmp_path: Path, undisturbed: EvalResult) -> None:
    """SIGKILL at growing points; stored units only ever grow, and the end is the same."""
    before = 0
    for units in (1, 30, 70):
        interrupt_after(tmp_path, units, signal.SIGKILL)
        assert stored(tmp_path) >= before
        before = stored(tmp_path)
        store = FolderStore(tmp_path)
        assert all(store.get(path.stem) is not None for path in (tmp_path / "units").glob("*.npz"))
    finish(tmp_path)
    assert essence(read_result(tmp_path / "result.json")) == essence(undisturbed)


def test_ctrl_c_leaves_a_partial_result_that_says_what_is_missing(
    tmp_path: Path, undisturbed: EvalResult
) -> None:
    interrupt_after(tmp_path, 30, signal.SIGINT)
    partial = read_result(tmp_path / "result.json")
    assert partial.status == "partial"
    assert not partial.rankable
    assert partial.missing
    finish(tmp_path)
    assert essence(read_result(tmp_path / "result.json")) == essence(undisturbed)


def test_a_damaged_unit_is_made_again(tmp_path: Path, undisturbed: EvalResult) -> None:
    finish(tmp_path)
    units = sorted((tmp_path / "units").glob("*.npz"))
    units[0].write_bytes(units[0].read_bytes()[:50])
    units[1].unlink()
    finish(tmp_path)
    assert essence(read_result(tmp_path / "result.json")) == essence(undisturbed)
