"""A worker host in a process of its own, of Ray or of this machine, which answers one task at a time."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from typing import Any

from robust_eval.core.errors import UserError
from robust_eval.evaluation.executors import Source, reason
from robust_eval.evaluation.executors.local import EXITS
from robust_eval.evaluation.executors.shared_images import SharedImages
from robust_eval.evaluation.planning.options import EvaluationOptions
from robust_eval.evaluation.store import pack_unit


class HostProcess:
    """A worker host, with answers that can be sent to another process."""

    def __init__(self, cpus: int, shared: SharedImages | None = None, device: str | None = None) -> None:
        """``shared``: images that the process need not load. ``device``: in place of the sources'."""
        import torch

        from robust_eval.evaluation.executors.worker_host import WorkerHost

        torch.set_num_threads(cpus)
        self._host, self._device = WorkerHost(shared=shared), device

    def identify(self) -> tuple[str, int]:
        """(host name, process id)"""
        return socket.gethostname(), os.getpid()

    def run_task(self, method: str, source: Source, arguments: tuple[Any, ...]) -> tuple[str, Any, float]:
        """(``done`` | ``refused`` | ``failed``, value or reason, seconds)"""
        start = time.perf_counter()
        if self._device is not None and isinstance(source, EvaluationOptions):
            source = replace(source, device=self._device)
        try:
            kind, value = "done", getattr(self._host, method)(source, *arguments)
            if method == "unit":
                # Compressed by the worker, to relieve the process that writes the run folder.
                value = pack_unit(arguments[-1].key, value)
        except UserError as error:
            kind, value = "refused", str(error)
        except SystemExit:
            kind, value = "failed", EXITS
        except Exception as error:
            kind, value = "failed", reason(error)
        return kind, value, time.perf_counter() - start
