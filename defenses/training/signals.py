"""Reasons to end a run early: a signal, handled at the next safe point, or failed training."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from robust_eval.core.errors import UserError


class TrainingInterrupted(Exception):  # noqa: N818 (a request, not an error)
    """Raised at a safe point after a signal; the state of the run is consistent."""


class UntrainableError(UserError):
    """Training failed with these settings: the loss is not finite, or the network has collapsed."""


class InterruptHandler:
    """Records SIGINT and SIGTERM until ``check`` is called; a second signal raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise TrainingInterrupted after a signal."""
        if self.requested:
            raise TrainingInterrupted

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals inside; does nothing outside the main thread, which alone may install handlers."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._record) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _record(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
