"""A process that runs commands in children whose writes fail on request: one JSON line in, one out.

Started by :mod:`support.faulty_commands` with the shim preloaded. A command that is run in this process
itself imports PyTorch, fills caches and may start the fork server of multiprocessing. Later commands, in
forks, take milliseconds instead of seconds.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import mmap
import os
import signal
import sys
import traceback
from multiprocessing import forkserver
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


def run_in_child(request: dict[str, Any], counter: mmap.mmap) -> int:
    """Run a command in a child with its fault; returns the exit code, or minus the signal."""
    gc.freeze()  # a collection in the child would copy the memory of its parent
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(request["seconds"])
    use_server_of_parent()
    shared = (ctypes.c_char * 8).from_buffer(counter)
    arm = ctypes.CDLL(None).fault_arm
    arm(request["root"].encode(), ctypes.c_long(request["at"]), request["kind"], shared)
    code = 1
    try:
        code = run_here(request)
    finally:
        os._exit(code)


def use_server_of_parent() -> None:
    """Let this fork use the fork server of its parent, if there is one: starting another takes seconds."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_pid is not None:
        server.ensure_running = forkserver.ensure_running = lambda: None


def serve() -> None:
    import torch

    from robust_eval.core import files

    files.RETRY_SECONDS = 1
    torch.set_num_threads(1)
    counter = mmap.mmap(-1, 8)
    for line in sys.stdin:
        request = json.loads(line)
        counter[:8] = bytes(8)
        code = run_in_child(request, counter) if request["fork"] else run_here(request)
        print(json.dumps({"code": code, "calls": int.from_bytes(counter[:8], "little")}), flush=True)


if __name__ == "__main__":
    serve()
