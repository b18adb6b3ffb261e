"""A local worker process: how it is started, and what it runs."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from robust_eval.core import signals
from robust_eval.evaluation import fresh_process
from robust_eval.evaluation.executors import Task
from robust_eval.evaluation.executors.host_process import HostProcess
from robust_eval.evaluation.executors.shared_images import SharedImages

_END = 5.0
"""Seconds that an idle worker may take to end."""


@dataclass(frozen=True)
class Surroundings:
    """What a worker process takes over from the command."""

    threads: int
    shared: SharedImages | None
    device: str | None
    folder: str
    environment: dict[str, str]


class WorkerProcess:
    """A running worker. It ends when this object is closed, or when the process that owns it ends."""

    def __init__(self, threads: int, shared: SharedImages | None, device: str | None = None) -> None:
        """Start it.

        Raises:
            OSError: if no process can be started.
        """
        context: Any = multiprocessing.get_context(fresh_process.start_server())
        self.connection, theirs = context.Pipe()
        alive, self._alive = context.Pipe(duplex=False)
        around = Surroundings(threads, shared, device, str(Path.cwd()), dict(os.environ))
        self._process = context.Process(target=_work, args=(theirs, alive, around))
        with fresh_process.without_main_module():
            self._process.start()
        theirs.close()
        alive.close()

    def send(self, task: Task) -> None:
        """Give it a task, which it answers on ``connection``; a worker that died answers with its end."""
        try:
            self.connection.send((task.method, task.source, task.arguments))
        except BrokenPipeError:
            return

    def ending(self) -> str:
        """How the process died, as the reason of a failure."""
        self._process.join(5)
        code = self._process.exitcode
        if code is None or code >= 0:
            return f"the worker's process ended with exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        memory = ": is there too little memory?" if name == "SIGKILL" else ""
        return f"the worker's process was ended by {name}{memory}"

    def close(self, *, idle: bool) -> None:
        """Stop it, and wait for its end. An ``idle`` one ends itself, and deletes what its libraries made."""
        self.connection.close()
        if idle:
            self._process.join(_END)
        self._alive.close()
        self._process.kill()
        self._process.join()


def _work(connection: Connection, alive: Connection, around: Surroundings) -> None:
    """In the worker: answer tasks until the process that sends them ends."""
    # The terminal sends Ctrl-C to all processes; the command then ends its workers.
    for number in signals.STOPPING:
        if number != getattr(signal, "SIGTERM", None):
            signal.signal(number, signal.SIG_IGN)
    Thread(target=_end_with_owner, args=(alive,), daemon=True).start()
    os.environ.update(around.environment)
    os.chdir(around.folder)
    host = HostProcess(around.threads, around.shared, around.device)
    try:
        connection.send(host.identify())
        while True:
            method, source, arguments = connection.recv()
            connection.send(host.run_task(method, source, arguments))
    except (EOFError, OSError):
        return


def _end_with_owner(alive: Connection) -> None:
    """End this process if its owner ends, which closes the other end of the pipe."""
    alive.poll(None)
    os._exit(1)
