"""A process that runs commands in children that are disturbed on request: one JSON line in, one out.

Started by :mod:`support.faulty_commands` with the shim preloaded. A command that is run in this process
itself imports PyTorch, fills caches and may start the fork server of multiprocessing. Later commands, in
forks, take milliseconds instead of seconds.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import json
import mmap
import os
import pkgutil
import signal
import sys
import tempfile
import traceback
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

COMMANDS = {"robust-eval": "robust_eval.cli.main", "defenses": "defenses.cli.main"}


def run_here(request: dict[str, Any]) -> int:
    """Run a command in this process, with its output in files; returns its exit code."""
    program, *words = request["words"]
    os.chdir(request["cwd"])
    sys.argv = [program, *words]
    kept = [os.dup(1), os.dup(2)]
    for number, stream in enumerate(("out", "err"), start=1):
        handle = os.open(request[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    code: Any = 0
    try:
        importlib.import_module(COMMANDS[program]).main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    for number, handle in enumerate(kept, start=1):
        os.dup2(handle, number)
        os.close(handle)
    return code if isinstance(code, int) else int(code is not None)


def start_child(request: dict[str, Any], counter: mmap.mmap) -> int:
    """Start a command in a child with its fault; returns the number of the process."""
    gc.freeze()  # a collection in the child would copy the memory of its parent
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(request["seconds"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        use_server_of_parent()
        os.environ.update(request["environment"])
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # a command of the parent replaced them
        tempfile.tempdir = os.environ.get("TMPDIR")
        for target, (call, pipe) in request["holds"].items():
            hold(target, call, pipe)
        shared = (ctypes.c_char * 8).from_buffer(counter)
        arm = ctypes.CDLL(None).fault_arm
        arm(request["root"].encode(), ctypes.c_long(request["at"]), request["kind"], shared)
        code = run_here(request)
    finally:
        os._exit(code)


def use_server_of_parent() -> None:
    """Let this fork use the fork server of its parent, if there is one: starting another takes seconds."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_pid is not None:
        server.ensure_running = forkserver.ensure_running = lambda: None


def hold(target: str, call: int, pipe: str) -> None:
    """Stop before a call (counted from 1) of a function until the other end of a named pipe is closed."""
    module, _, path = target.partition(":")
    *outer, name = path.split(".")
    owner: Any = pkgutil.resolve_name(":".join([module, *outer]))
    function, calls = getattr(owner, name), itertools.count(1)

    def held(*arguments: Any, **named: Any) -> Any:
        if next(calls) == call:
            Path(pipe).read_bytes()
        return function(*arguments, **named)

    setattr(owner, name, held)


def answer(request: dict[str, Any], counter: mmap.mmap) -> dict[str, int]:
    """Do what a request asks for: run a command here, start one, or wait for one that was started."""
    if request["do"] == "wait":
        code = os.waitstatus_to_exitcode(os.waitpid(request["process"], 0)[1])
        return {"code": code, "calls": int.from_bytes(counter[:8], "little")}
    if request["do"] == "run":
        return {"code": run_here(request), "calls": 0}
    counter[:8] = bytes(8)
    return {"process": start_child(request, counter)}


def leave_undrawn() -> None:
    """Write figures as a few bytes, with the same calls: drawing takes most of a short command's time."""
    from robust_eval.core import figure_style

    save = figure_style.save

    def save_undrawn(figure: Any, *arguments: Any) -> Any:
        figure.savefig = lambda file, **_: file.write(b"figure")
        return save(figure, *arguments)

    figure_style.save = save_undrawn


def serve() -> None:
    import torch

    from robust_eval.core import files

    files.RETRY_SECONDS = 1
    torch.set_num_threads(1)
    leave_undrawn()
    counter = mmap.mmap(-1, 8)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), counter)), flush=True)


if __name__ == "__main__":
    serve()
