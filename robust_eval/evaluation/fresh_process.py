"""Compute logits in a fresh process, which loads the model again and has seen none of the images.

Wrappers around a network in this process, changes that happen while it is called, and images that it
remembers are not in the file.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import sys
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_eval.core.devices import pick_device
from robust_eval.core.errors import UserError
from robust_eval.core.torch_state import standard_state
from robust_eval.core.types import CheckpointRef, Ints
from robust_eval.evaluation.known_model import load_known
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.models.isolation import batched_logits

_TIMEOUT = 1800.0
_PRELOADED = (__name__, "robust_eval.evaluation.executors.worker_host")
"""Modules that the fork server imports: those of fresh processes, and of local workers."""


@dataclass(frozen=True)
class _Call:
    """Everything that the process needs."""

    options: EvaluationOptions
    known: CheckpointRef
    x_NCHW: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    batches: Sequence[Ints]
    folder: str
    environment: dict[str, str]
    threads: int


def start_server() -> str:
    """Start the fork server, so that it imports torch while the attacks run.

    Returns:
        The start method of fresh processes. It is ``spawn``, with which every process imports torch, if there
        can be no fork server: on Windows, if no temporary file can be written, and in a process that was
        forked from one that had started its server, because a server belongs to one process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    from multiprocessing.forkserver import ensure_running, set_forkserver_preload

    set_forkserver_preload(list(_PRELOADED))
    try:
        ensure_running()
    except OSError:
        return "spawn"
    return "forkserver"


def logits(
    options: EvaluationOptions, known: CheckpointRef, x_NCHW: Tensor, batches: Sequence[Ints]
) -> Tensor:
    """Logits (sum of the batches' sizes, K) of batches of images, from a process that loads the file again.

    ``known``: how the file was read before. ``batches``: indices of ``x_NCHW``, in the order of the calls.

    Raises:
        UserError: if the process fails, or in a daemonic process, which cannot start one.
    """
    if multiprocessing.current_process().daemon:
        raise UserError("no fresh process could be run: a daemonic process cannot start one")
    call = _Call(
        options,
        known,
        x_NCHW.cpu().numpy(),
        batches,
        str(Path.cwd()),
        dict(os.environ),
        torch.get_num_threads(),
    )
    try:
        found = _ask(call, start_server())
    except (OSError, EOFError) as error:
        raise UserError(f"no fresh process could be run ({type(error).__name__})") from None
    if isinstance(found, str):
        raise UserError(found)
    return torch.from_numpy(found)


def _ask(call: _Call, method: str) -> Any:
    """Send the call to a new process; its answer: an array of logits, or the reason of a failure."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=_answer, args=(theirs, call), daemon=True)
    try:
        with without_main_module():
            process.start()
        theirs.close()
        return ours.recv() if ours.poll(_TIMEOUT) else "the fresh process gave no answer in time"
    finally:
        ours.close()
        if process.pid is not None:
            process.kill()
            process.join()


@contextlib.contextmanager
def without_main_module() -> Iterator[None]:
    """Hide the script of the user, which multiprocessing would run again in the new process."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _answer(connection: Connection, call: _Call) -> None:
    """In the fresh process: load, compute, and send logits, or the reason of a failure."""
    Thread(target=_end_with_caller, args=(connection,), daemon=True).start()
    text = io.StringIO()
    # The code of a network may print, which would disturb the display of the run.
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            connection.send(_logits(call))
        except (Exception, SystemExit) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            # The reason is stored in the result, which must not contain paths of this machine.
            shown = re.sub(r"\S*[/\\](?=\S)", "", lines[0])[:200]
            connection.send(f"the file could not be used in a fresh process ({shown})")


def _end_with_caller(connection: Connection) -> None:
    """End this process if the one that waits for the logits ends, which closes the connection."""
    connection.poll(None)
    os._exit(1)


@standard_state()
@torch.no_grad()
def _logits(call: _Call) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    os.environ.update(call.environment)
    os.chdir(call.folder)
    torch.set_num_threads(call.threads)
    device = pick_device(call.options.device)
    x = torch.from_numpy(call.x_NCHW)
    model = load_known(call.options, call.known, x.shape[1:], device).model
    return batched_logits(model, x, call.batches).numpy()
