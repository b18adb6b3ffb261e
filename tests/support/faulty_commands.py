"""Run commands whose writes fail at a chosen system call: killed, disk full, or input/output error."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parent
SECONDS = 300
"""A command that takes longer is ended by SIGALRM."""


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


class FaultyCommands:
    """Runs commands in forks of a process that has imported the heavy libraries."""

    def __init__(self, process: subprocess.Popen[str], output: Path) -> None:
        self._process, self._output = process, output

    def run(
        self, root: Path, words: str, fault: Fault = Fault.KILL, at: int = 0, *, fork: bool = True
    ) -> Outcome:
        """Run a command in the folder ``root``; calls below it are counted from 1. ``at`` 0: no fault.

        Without ``fork`` it is run in the process itself, which makes later commands fast.
        """
        out, err = self._output / "out", self._output / "err"
        request = {
            "words": shlex.split(words),
            "cwd": str(root),
            "root": str(root.resolve()),
            "at": at,
            "kind": int(fault),
            "out": str(out),
            "err": str(err),
            "fork": fork,
            "seconds": SECONDS,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        assert line, f"the process that runs the commands has ended with {self._process.wait()}"
        answer = json.loads(line)
        return Outcome(answer["code"], answer["calls"], out.read_text(), err.read_text())

    def succeed(self, root: Path, words: str, *, fork: bool = True) -> Outcome:
        """Run a command without a fault; it must succeed."""
        done = self.run(root, words, fork=fork)
        assert done.code == 0, done
        return done


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
