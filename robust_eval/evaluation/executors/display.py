"""How an evaluation reports its progress. Implemented in ``robust_eval.evaluation.progress``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from robust_eval.evaluation.executors import WorkerState
    from robust_eval.evaluation.executors.scheduled_run import Run


class Display(Protocol):
    """Receives progress; its methods must not raise."""

    def update(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        """Called after every change."""

    def opened(self, run: Run) -> None:
        """A run's checkpoint is loaded and its folder is open."""

    def log(self, text: str) -> None:
        """One line of text."""


class SilentDisplay:
    """A display that shows nothing."""

    def update(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None: ...

    def opened(self, run: Run) -> None: ...

    def log(self, text: str) -> None: ...
