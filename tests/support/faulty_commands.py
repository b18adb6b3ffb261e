"""Run commands whose writes fail at a chosen system call: killed, disk full, or input/output error."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent
SECONDS = 300
"""A command that takes longer is ended by SIGALRM."""
RUN = "robust-eval run net.safetensors --suite fgsm --examples 40 --batch-size 10 --out out"
"""An evaluation of two columns in four units each, of a network that is trained already."""


class Fault(IntEnum):
    """What happens at the chosen call; the numbers are those of the shim."""

    KILL = 0
    """SIGKILL before the call."""
    TORN = 1
    """SIGKILL after half of the call, if it is a write."""
    FULL = 2
    """From this call on the disk is full: calls that need space fail with ENOSPC."""
    ONCE = 3
    """This call fails with EIO."""
    BROKEN = 4
    """From this call on, all calls that change files fail with EIO."""

    @property
    def kills(self) -> bool:
        return self in (Fault.KILL, Fault.TORN)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code (negative: a signal), number of calls that change files, output."""

    code: int
    calls: int
    out: str
    err: str


@dataclass(frozen=True)
class Surroundings:
    """What differs from an ordinary call of a command."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that are set."""
    faulty: Path | None = None
    """The folder whose calls fail; by default that of the command."""
    out: Path | None = None
    """Where stdout goes, such as a named pipe; by default a file that becomes ``Outcome.out``."""
    holds: Mapping[str, tuple[int, Path]] = field(default_factory=dict)
    """Functions, as ``module:name``, that stop before a call (counted from 1): see :meth:`Started.held`."""


class FaultyCommands:
    """Runs commands in forks of a process that has imported the heavy libraries."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process, self._output = process, output

    @property
    def process(self) -> int:
        """The number of the process whose forks run the commands."""
        return self._process.pid

    def run(
        self, root: Path, words: str, fault: Fault = Fault.KILL, at: int = 0, *, fork: bool = True
    ) -> Outcome:
        """Run a command in the folder ``root``; calls below it are counted from 1. ``at`` 0: no fault.

        Without ``fork`` it is run in the process itself, which makes later commands fast.
        """
        if fork:
            return self.start(root, words, fault, at).wait()
        return self._outcome(self._ask(self._request("run", root, words, fault, at, Surroundings())))

    def start(
        self,
        root: Path,
        words: str,
        fault: Fault = Fault.KILL,
        at: int = 0,
        surroundings: Surroundings | None = None,
    ) -> Started:
        """Start a command in a fork, like :meth:`run`."""
        request = self._request("start", root, words, fault, at, surroundings or Surroundings())
        process = self._ask(request)["process"]
        return Started(process, lambda: self._outcome(self._ask({"do": "wait", "process": process})))

    def succeed(self, root: Path, words: str, *, fork: bool = True) -> Outcome:
        """Run a command without a fault; it must succeed."""
        done = self.run(root, words, fork=fork)
        assert done.code == 0, done
        return done

    def _request(
        self, do: str, root: Path, words: str, fault: Fault, at: int, around: Surroundings
    ) -> dict[str, object]:
        return {
            "do": do,
            "words": shlex.split(words),
            "cwd": str(root),
            "root": str((around.faulty or root).resolve()),
            "at": at,
            "kind": int(fault),
            "out": str(around.out or self._output / "out"),
            "err": str(self._output / "err"),
            "environment": dict(around.environment),
            "holds": {target: (call, str(pipe)) for target, (call, pipe) in around.holds.items()},
            "seconds": SECONDS,
        }

    def _ask(self, request: Mapping[str, object]) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the process that runs the commands has ended with {self._process.wait()}"
        answer: dict[str, int] = json.loads(line)
        return answer

    def _outcome(self, answer: Mapping[str, int]) -> Outcome:
        out, err = (self._output / name for name in ("out", "err"))
        written = out.read_text() if out.exists() else ""
        return Outcome(answer["code"], answer["calls"], written, err.read_text())


@dataclass(frozen=True)
class Started:
    """A command that runs: its process, and the call that waits for its end."""

    process: int
    wait: Callable[[], Outcome]

    @contextmanager
    def held(self, pipe: Path) -> Iterator[None]:
        """Wait until the command has stopped at a named pipe, which must exist; it goes on afterwards."""
        with opened_for_writing(pipe, lambda: process_state(self.process) != ""):
            yield


@contextmanager
def opened_for_writing(pipe: Path, expected: Callable[[], bool]) -> Iterator[None]:
    """Open a named pipe once a process reads from it, as long as that is ``expected``."""
    handles: list[int] = []

    def is_open() -> bool:
        with suppress(OSError):  # ENXIO: no process has opened it for reading
            handles.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(handles) or not expected()

    wait_until(is_open)
    assert handles, f"the command ended before it read from {pipe}"
    try:
        yield
    finally:
        os.close(handles[0])


def wait_until(reached: Callable[[], bool]) -> None:
    """Wait for an event, for at most four minutes: less than the time limit of a test."""
    deadline = time.monotonic() + 240
    while not reached():
        assert time.monotonic() < deadline, "the event did not happen"
        time.sleep(0.01)


def process_state(process: int) -> str:
    """The letter of the state of a process (T: suspended); empty if it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0].replace("Z", "")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def session_members(session: int) -> list[str]:
    """The command lines of the processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            if fields[3] == str(session) and fields[0] != "Z":
                found.append((folder / "cmdline").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(process: int) -> set[int]:
    """The processes that a process, or one of its descendants, has started and that have not ended."""
    found: set[int] = set()
    try:
        for thread in Path(f"/proc/{process}/task").iterdir():
            found |= {int(number) for number in (thread / "children").read_text().split()}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    return {child for child in found if process_state(child)}.union(*map(descendants, found))


def sample(calls: int, case: int, points: int = 3) -> list[tuple[int, Fault]]:
    """Some of a command's calls, evenly spread, each with another fault; other ``case``, other faults."""
    spread = sorted({round(1 + (calls - 1) * i / (points - 1)) for i in range(points)})
    return [(at, list(Fault)[(case * points + number) % len(Fault)]) for number, at in enumerate(spread)]


def every(calls: int) -> list[tuple[int, Fault]]:
    """All calls of a command with all faults."""
    return [(at, fault) for fault in Fault for at in range(1, calls + 1)]


def stopped_well(outcome: Outcome, fault: Fault) -> None:
    """Check that a command was killed, or stopped with one sentence and exit code 2, or succeeded."""
    if fault.kills:
        assert outcome.code == -signal.SIGKILL, outcome
        return
    assert outcome.code in (0, 2), outcome
    assert "Traceback" not in outcome.err, outcome.err
    if outcome.code == 2:
        assert len(outcome.err.strip().splitlines()) == 1, outcome.err
        assert outcome.err.startswith("Error: ")


@contextmanager
def faulty_commands(folder: Path) -> Iterator[FaultyCommands]:
    """Start the process; skip the test where the shim cannot be built."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not sys.platform.startswith("linux") or compiler is None:
        pytest.skip("injecting faults needs Linux and a C compiler")
    shim = folder / "shim.so"
    source = SUPPORT / "fault_shim.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl"], check=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "400",
        "PYTHONPATH": os.pathsep.join(str(path) for path in (SUPPORT.parents[1], SUPPORT.parent)),
        "MPLBACKEND": "agg",
    }
    server = subprocess.Popen(
        [sys.executable, str(SUPPORT / "fault_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield FaultyCommands(server, folder)
    finally:
        server.stdin.close()  # type: ignore[union-attr]
        server.wait()
