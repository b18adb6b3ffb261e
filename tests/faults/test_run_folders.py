"""Runs, merges and landscapes continue to the same result, whatever call they are killed at or fail at.

The quick tests take a sample of the calls that change files, the slow ones all of them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.fake_workers import TRAINED, without_times
from support.faulty_commands import Fault, FaultyCommands, every, sample, stopped_well

from robust_eval.core.files import is_temporary
from robust_eval.evaluation.store import FolderStore
from robust_eval.results import read_result

RUN = "robust-eval run net.safetensors --suite fgsm --examples 40 --batch-size 20"
SMALL = "--examples 12 --eps 0.1 --steps 1"


@dataclass(frozen=True)
class Case:
    """A command that writes the folder ``out``, and the commands before it."""

    command: str
    before: tuple[str, ...] = ()
    deleted: str = ""
    """Files of ``out`` that are deleted before the command, which must then repeat work."""


CASES = {
    "run": Case(f"{RUN} --out out"),
    "continued run": Case(f"{RUN} --out out", (f"{RUN} --out out",), "units/*.npz"),
    "merge": Case(
        "robust-eval merge out.shard-1-of-2 out.shard-2-of-2",
        (f"{RUN} --out out --shard 1/2", f"{RUN} --out out --shard 2/2"),
    ),
    "curve": Case(
        f"robust-eval landscape curve net.safetensors {SMALL} --points 3 --directions 1 --out out "
        "--direction-file directions.safetensors"
    ),
    "hessian": Case(f"robust-eval landscape hessian net.safetensors {SMALL} --count 1 --out out"),
    "weights": Case("robust-eval landscape weights net.safetensors --out out"),
}
QUICK = ("run", "continued run", "merge")


def state(folder: Path) -> dict[str, object]:
    """The files of a folder by name, without times: their content if it is the same in every run."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.name == "result.json":
            found[name] = without_times(path)
        elif path.suffix == ".json":
            found[name] = _without_seconds(json.loads(path.read_text()))
        else:
            found[name] = path.suffix if path.suffix == ".npz" else path.read_bytes()
    return found


def _without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_seconds(part) for key, part in value.items() if key != "seconds"}
    return [_without_seconds(part) for part in value] if isinstance(value, list) else value


def check_raw(folder: Path) -> None:
    """Every file that exists is whole, and a result has its evidence."""
    for path in folder.rglob("*"):
        if is_temporary(path.name) or ".change" in path.parts:
            continue
        if path.suffix == ".npz":
            assert FolderStore(folder).get(path.stem) is not None
        if path.suffix == ".json":
            json.loads(path.read_text())
    if (folder / "result.json").exists():
        assert read_result(folder / "result.json").evidence is not None
        assert (folder / "evidence.safetensors").exists()


class Walk:
    """One case: the work before its command, the folder after it, and the number of its calls."""

    def __init__(self, case: Case, commands: FaultyCommands, folder: Path) -> None:
        self.case, self.commands, self.folder = case, commands, folder
        self.saved, self.work = folder / "saved", folder / "work"
        self.saved.mkdir()
        shutil.copy(TRAINED, self.saved / "net.safetensors")
        for words in case.before:
            commands.succeed(self.saved, words, fork=False)
        for path in (self.saved / "out").glob(case.deleted or "-"):
            path.unlink()
        self.restore()
        commands.succeed(self.work, case.command, fork=False)
        self.restore()
        self.calls = commands.succeed(self.work, case.command).calls
        self.done = state(self.work / "out")

    def restore(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.saved, self.work)

    def fail(self, at: int, fault: Fault) -> None:
        """Run the command with a fault; the same command then leads to the same folder."""
        self.restore()
        stopped = self.commands.run(self.work, self.case.command, fault, at)
        stopped_well(stopped, fault)
        check_raw(self.work / "out")
        self.commands.succeed(self.work, self.case.command)
        assert state(self.work / "out") == self.done


@pytest.mark.parametrize("name", QUICK)
def test_some_faults_lose_nothing(name: str, commands: FaultyCommands, tmp_path: Path) -> None:
    walk = Walk(CASES[name], commands, tmp_path)
    for at, fault in sample(walk.calls, QUICK.index(name)):
        walk.fail(at, fault)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", CASES)
def test_no_fault_loses_anything(name: str, commands: FaultyCommands, tmp_path: Path) -> None:
    walk = Walk(CASES[name], commands, tmp_path)
    for at, fault in every(walk.calls):
        walk.fail(at, fault)
