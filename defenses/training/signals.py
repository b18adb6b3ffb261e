"""Reasons to end a run early: a signal, handled at the next safe point, or failed training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from robust_eval.core import signals
from robust_eval.core.errors import UserError


class TrainingInterrupted(Exception):  # noqa: N818 (a request, not an error)
    """Raised at a safe point after a signal; the state of the run is consistent."""


class UntrainableError(UserError):
    """Training failed with these settings: the loss is not finite, or the network has collapsed."""


class InterruptHandler:
    """Records a stop signal until ``check`` is called; a second signal raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False

    def check(self) -> None:
        """Raise TrainingInterrupted after a signal."""
        if self.requested:
            raise TrainingInterrupted

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record signals inside; see :func:`robust_eval.core.signals.handled`."""
        with signals.handled(self._record):
            yield

    def _record(self) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
