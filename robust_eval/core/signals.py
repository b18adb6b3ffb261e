"""Signals that ask a command to stop: Ctrl-C (SIGINT), SIGTERM, and SIGHUP when the terminal is closed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_received: list[int] = []


@contextmanager
def handled(handle: Callable[[], None]) -> Iterator[None]:
    """Call ``handle`` at each stop signal, in the main thread; does nothing in another thread.

    Signals that are ignored stay ignored, as for a command that is started with ``nohup``.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def record(number: int, _frame: FrameType | None) -> None:
        _received.append(number)
        handle()

    before = {number: signal.getsignal(number) for number in STOPPING}
    replaced = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in replaced:
        signal.signal(number, record)
    try:
        yield
    finally:
        for number, old in replaced.items():
            signal.signal(number, old)


def interrupt() -> None:
    """Raise KeyboardInterrupt, as Python does by default for SIGINT only."""
    raise KeyboardInterrupt


def exit_code() -> int:
    """The exit code of a command that was stopped: 128 and the number of the signal (130 for Ctrl-C)."""
    return 128 + (_received[-1] if _received else signal.SIGINT)
