"""Fork servers of multiprocessing that have imported the modules which a test's processes need."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

_started: dict[int, tuple[str, ...]] = {}
"""The modules of the servers that were started here, by process."""


def context_with(*modules: str) -> ForkServerContext:
    """A context whose fork server has imported ``modules``, so that a process starts in milliseconds.

    A process has one server. If the code under test has started one with other modules, it is replaced.
    """
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    context = multiprocessing.get_context("forkserver")
    if _started.get(server._forkserver_pid) != modules:
        server._stop()
        context.set_forkserver_preload(list(modules))
        forkserver.ensure_running()
        _started[server._forkserver_pid] = modules
    return context
