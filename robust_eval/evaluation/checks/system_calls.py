"""Record whether code opens files, connections or processes while a context is open."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PROCESSES = ("subprocess.", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system")
_KINDS = {
    "processes": _PROCESSES,
    "connections": ("socket.",),
    "environment variables": ("os.putenv", "os.unsetenv"),
    # Memory that processes share is mapped.
    "files": ("open", "os.", "sqlite3.", "mmap."),
}
"""Beginnings of the names of Python's audit events (PEP 578); the first kind that fits counts."""

_IMPORTING = {"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

_open_records: dict[int, set[str]] = {}
"""By thread: what a context has recorded so far."""


@contextmanager
def recorded() -> Iterator[set[str]]:
    """Yields a set to which the kinds are added that this thread opens: ``files``, ``processes`` and so on.

    Imports, and reading of code for the text of a call stack, are not counted. Compiled code that calls the
    operating system itself is not seen.
    """
    _install()
    thread = threading.get_ident()
    outer, found = _open_records.get(thread), set[str]()
    _open_records[thread] = found
    try:
        yield found
    finally:
        del _open_records[thread]
        if outer is not None:
            outer |= found
            _open_records[thread] = outer


def _record(event: str, arguments: tuple[Any, ...]) -> None:
    if not _open_records:
        return
    found = _open_records.get(threading.get_ident())
    if found is None:
        return
    for kind, beginnings in _KINDS.items():
        if event.startswith(beginnings):
            if not _concerns_code(event, arguments):
                found.add(kind)
            return


def _concerns_code(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a module is being imported, or the source of a running function is opened for reading."""
    running = {frame.f_code.co_filename for frame, _ in traceback.walk_stack(None)}
    if not running.isdisjoint(_IMPORTING):
        return True
    reads = event == "open" and not arguments[2] & _WRITES
    return reads and (arguments[0] in running or str(arguments[0]).endswith(".py"))


def _install() -> None:
    """Add the hook once per process: Python has no way to remove one."""
    if not getattr(_install, "done", False):
        sys.addaudithook(_record)
        _install.done = True  # type: ignore[attr-defined]
