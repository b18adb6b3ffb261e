"""What ends a run before its time: a signal, at the next safe point; or settings that cannot be trained."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from robust_eval.core.errors import UserError


class TrainingInterrupted(Exception):  # noqa: N818 (a request, not an error)
    """Raised at a safe point after a signal; the run's state is whole."""


class UntrainableError(UserError):
    """These settings train to nothing: the loss is not finite, or every image gets the same class."""


class InterruptHandler:
    """Remembers a signal until the run asks; a second one interrupts at once."""

    def __init__(self) -> None:
        self.asked = False

    def check(self) -> None:
        if self.asked:
            raise TrainingInterrupted

    @contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
