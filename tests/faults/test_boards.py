"""A board holds the old row or the new one, whole, whatever call a command is killed at or fails at.

Every command that changes a board is run with a fault at its first, second, third call that changes a file,
and so on. The quick tests take a sample of the calls, the slow ones all of them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.fake_workers import TRAINED
from support.faulty_commands import (
    Fault,
    FaultyCommands,
    Outcome,
    every,
    sample,
    stopped_well,
)

from robust_eval.core.files import is_temporary
from robust_eval.results import verification_record

PAGES = ("README.md", "index.html")
Snapshot = dict[str, bytes]


@dataclass(frozen=True)
class Case:
    """A command, and the commands that make the board it starts from."""

    before: tuple[str, ...]
    command: str


ADD_OTHER = "leaderboard add other/result.json b --evidence"
ADD_OLD = "leaderboard add old/result.json b --evidence --images --checkpoint net.safetensors"
BUILD = "leaderboard build b"
CASES = {
    "a new board": Case((), ADD_OLD),
    "another row": Case((ADD_OTHER, BUILD), ADD_OLD),
    "a row that is replaced": Case(
        (ADD_OTHER, ADD_OLD, BUILD), "leaderboard add new/result.json b --replace --evidence"
    ),
    "a row with another attachment": Case(
        (ADD_OTHER, "leaderboard add old/result.json b --images", BUILD),
        "leaderboard add old/result.json b --replace --evidence --checkpoint net.safetensors",
    ),
    "build": Case((ADD_OTHER, BUILD, ADD_OLD), BUILD),
    "verify": Case((ADD_OTHER, ADD_OLD, BUILD), "verify ROW"),
    "check": Case((ADD_OTHER, BUILD), "leaderboard check b"),
}
NEXT: tuple[str, ...] = (
    "leaderboard check b",
    "leaderboard build b",
    "gate ROW --min-robust 1",
    "compare ROW ROW",
    "verify ROW --checkpoint net.safetensors",
    "leaderboard add other/result.json b --replace --evidence",
)


@pytest.fixture(scope="module")
def runs(commands: FaultyCommands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and three runs: two of one setting, and one of another."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(TRAINED, folder / "net.safetensors")
    for name, options in {"old": "--seed 0", "new": "--seed 1", "other": "--eps 0.05"}.items():
        words = f"run net.safetensors --suite fgsm --examples 40 --batch-size 40 {options} --out {name}"
        commands.succeed(folder, f"robust-eval {words}", fork=False)
    for words in (ADD_OLD, BUILD, NEXT[0]):
        commands.succeed(folder, f"robust-eval {words}", fork=False)
    shutil.rmtree(folder / "b")
    return folder


def snapshot(board: Path) -> Snapshot:
    """The files of a board; a verification, which contains times, counts as its text ``valid``."""
    found = {}
    for path in board.rglob("*") if board.is_dir() else []:
        if path.is_file() and not (
            path.name == ".lock" or ".change" in path.parts or is_temporary(path.name)
        ):
            found[path.relative_to(board).as_posix()] = path.read_bytes()
            if path.name.endswith(verification_record.SUFFIX):
                verification_record.read(path)
                found[path.relative_to(board).as_posix()] = b"valid"
    return found


def rows(found: Snapshot) -> Snapshot:
    return {name: content for name, content in found.items() if name not in PAGES}


def subject(found: Snapshot, new: Snapshot) -> str:
    """The row that a case is about: a new one with a checkpoint, else any row, else a run."""
    evidence, results = ".evidence.safetensors", sorted(set(found) & set(new) - set(PAGES) or rows(found))
    checkpoints = [name for name in results if name.endswith(".safetensors") and not name.endswith(evidence)]
    stems = [name.removesuffix(".safetensors") for name in checkpoints]
    plain = [name.removesuffix(".json") for name in results if name.count(".") == 1]
    named = [f"b/{stem}.json" for stem in stems + plain]
    return named[0] if named else "old/result.json"


class Walk:
    """One case: the board before its command and after it, and the number of calls of the command."""

    def __init__(self, case: Case, commands: FaultyCommands, runs: Path, folder: Path) -> None:
        self.case, self.commands, self.work, self.saved = case, commands, folder / "work", folder / "saved"
        shutil.copytree(runs, self.work)
        self.board = self.work / "b"
        self.new: Snapshot = {}
        for words in case.before:
            commands.succeed(self.work, f"robust-eval {words}")
        self.old = snapshot(self.board)
        if self.board.is_dir():
            shutil.copytree(self.board, self.saved)
        done = self.run(case.command)
        assert done.code == 0, done.err
        self.calls, self.new = done.calls, snapshot(self.board)

    def run(self, words: str, fault: Fault = Fault.KILL, at: int = 0) -> Outcome:
        words = words.replace("ROW", subject(snapshot(self.board), self.new))
        return self.commands.run(self.work, f"robust-eval {words}", fault, at)

    def fail(self, at: int, fault: Fault, following: str) -> None:
        """Run the command with a fault, then another command; check the board after each."""
        shutil.rmtree(self.board, ignore_errors=True)
        if self.saved.is_dir():
            shutil.copytree(self.saved, self.board)
        stopped = self.run(self.case.command, fault, at)
        stopped_well(stopped, fault)
        found = snapshot(self.board)
        assert any(rows(state).items() <= found.items() for state in (self.old, self.new)), sorted(found)
        for page in PAGES:
            assert found.get(page) in (self.old.get(page), self.new.get(page))
        if not rows(found):
            return
        on_board = subject(found, self.new).startswith("b/")
        self.check_next(following if on_board else NEXT[0])

    def check_next(self, following: str) -> None:
        done = self.run(following)
        accepted = ("does not agree with the results", "is missing: run", "There is no evidence beside")
        assert done.code == 0 or any(text in done.out + done.err for text in accepted), done
        assert "Traceback" not in done.err
        if following in (NEXT[0], NEXT[2], NEXT[3]):  # the others write other files
            found = rows(snapshot(self.board))
            assert found in (rows(self.old), rows(self.new)), sorted(found)
        self.commands.succeed(self.work, f"robust-eval {BUILD}")
        if following != NEXT[0]:
            self.commands.succeed(self.work, f"robust-eval {NEXT[0]}")
        assert {path.name for path in self.board.iterdir()} == {"results", *PAGES}
        assert not any(is_temporary(path.name) for path in (self.board / "results").iterdir())


SIMILAR = {"another row", "a row that is replaced"}
"""Cases whose calls are among those of a new board and of a row with another attachment."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SIMILAR else name for name in CASES]
)
def test_a_board_is_whole_after_some_faults(
    name: str, commands: FaultyCommands, runs: Path, tmp_path: Path
) -> None:
    walk = Walk(CASES[name], commands, runs, tmp_path)
    for at, fault in sample(walk.calls, list(CASES).index(name)):
        walk.fail(at, fault, NEXT[at % len(NEXT)])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", CASES)
def test_a_board_is_whole_after_every_fault(
    name: str, commands: FaultyCommands, runs: Path, tmp_path: Path
) -> None:
    walk = Walk(CASES[name], commands, runs, tmp_path)
    for at, fault in every(walk.calls):
        walk.fail(at, fault, NEXT[(at + fault) % len(NEXT)])
