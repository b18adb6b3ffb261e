"""A killed run loses at most the unit in progress, and continues to the same result."""

from __future__ import annotations

import os
import shutil
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from support.faulty_commands import opened_for_writing
from support.fork_servers import context_with
from support.known_models import run_in_small_units

from robust_eval.evaluation.store import FolderStore
from robust_eval.results import EvalResult, read_result

UNITS = 4 * 10


def start(folder: Path, pipe: Path | None = None, units: int = 0) -> BaseProcess:
    """Start the run in a process, forked from a server that has imported the heavy libraries."""
    # The first gradient imports symbolic_shapes.
    lazy = ("robust_eval.attacks._art", "torch.fx.experimental.symbolic_shapes")
    context = context_with("robust_eval.evaluation.run", *lazy)
    process = context.Process(target=run_in_small_units, args=(str(folder), pipe and str(pipe), units))
    process.start()
    return process


def finish(folder: Path) -> None:
    process = start(folder)
    process.join(240)
    assert process.exitcode == 0


def stored(folder: Path) -> int:
    return len(list((folder / "units").glob("*.npz")))


def interrupt_after(folder: Path, units: int, with_signal: signal.Signals) -> None:
    """Send a signal to the run when ``units`` units are on disk."""
    pipe = folder.with_name(f"{folder.name}-pipe")
    os.mkfifo(pipe)
    process = start(folder, pipe, units)
    assert process.pid is not None
    with opened_for_writing(pipe, process.is_alive):
        os.kill(process.pid, with_signal)
    # The pipe is closed first: a signal between opening it and reading from it takes effect after the read.
    process.join(240)
    pipe.unlink()
    assert stored(folder) == units


def without_times(result: EvalResult) -> object:
    """The content of a result that must not depend on interruptions, without times and dates."""
    columns = {}
    for name, column in result.columns.items():
        attacks = [attack.model_copy(update={"seconds": 0.0}) for attack in column.attacks]
        columns[name] = column.model_copy(update={"seconds": 0.0, "attacks": tuple(attacks)})
    return columns, result.flags, result.worst_case.robust_bits, result.evidence


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    assert stored(folder) <= UNITS
    return folder


@pytest.fixture(scope="module")
def uninterrupted(whole: Path) -> EvalResult:
    return read_result(whole / "result.json")


@pytest.mark.parametrize("kills", [(12,), pytest.param((1, 12, 28), marks=pytest.mark.slow)])
def test_a_killed_run_gives_the_same_result(
    kills: tuple[int, ...], tmp_path: Path, uninterrupted: EvalResult
) -> None:
    """SIGKILL after these numbers of units; no stored unit is lost or damaged."""
    for units in kills:
        interrupt_after(tmp_path, units, signal.SIGKILL)
        store = FolderStore(tmp_path)
        assert all(store.get(path.stem) is not None for path in (tmp_path / "units").glob("*.npz"))
    finish(tmp_path)
    assert without_times(read_result(tmp_path / "result.json")) == without_times(uninterrupted)


def test_ctrl_c_writes_a_partial_result_that_lists_missing_columns(
    tmp_path: Path, uninterrupted: EvalResult
) -> None:
    interrupt_after(tmp_path, 12, signal.SIGINT)
    partial = read_result(tmp_path / "result.json")
    assert partial.status == "partial"
    assert not partial.rankable
    assert partial.missing
    finish(tmp_path)
    assert without_times(read_result(tmp_path / "result.json")) == without_times(uninterrupted)


def test_damaged_and_deleted_units_are_computed_again(
    tmp_path: Path, whole: Path, uninterrupted: EvalResult
) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    units = sorted((tmp_path / "units").glob("*.npz"))
    units[0].write_bytes(units[0].read_bytes()[:50])
    units[1].unlink()
    finish(tmp_path)
    assert without_times(read_result(tmp_path / "result.json")) == without_times(uninterrupted)
