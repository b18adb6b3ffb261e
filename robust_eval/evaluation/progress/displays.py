"""Progress of one run or several: a live table on a terminal and in a notebook, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.live import Live

from robust_eval.core import terminal
from robust_eval.evaluation.executors import WorkerState
from robust_eval.evaluation.executors.display import Display, SilentDisplay
from robust_eval.evaluation.executors.scheduled_run import Run
from robust_eval.evaluation.progress import descriptions, tables

INTERVAL = 30.0
"""Seconds between plain lines about a stage or run that is not finished."""
MAX_RUNS = 5
"""Unfinished runs in the plain lines about several runs."""


class PlainProgress:
    """A line per finished stage (one run) or run (several), and one every INTERVAL seconds in between."""

    def __init__(self, console: Console, *, several: bool = False) -> None:
        self._console, self._several = console, several
        self._last = time.monotonic()
        self._shown: set[int] = set()
        """Stages of the only run, or runs, whose end has been shown."""

    def opened(self, run: Run) -> None:
        descriptions.print_opened(self._console, run, brief=self._several)

    def log(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def update(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        if len(runs) == 1:
            self._update_stages(runs[0])
        else:
            self._update_runs(runs, workers)

    def _update_stages(self, run: Run) -> None:
        if run.running is None:
            return
        for number, stage in enumerate(run.running.stages):
            finished = stage.done == stage.attacked
            if number in self._shown or not (finished or (stage.done and self._due())):
                continue
            if finished:
                self._shown.add(number)
            self._last = time.monotonic()
            self.log(tables.stage_text(stage, run.running))

    def _update_runs(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        for run in runs:
            if run.closed and run.number not in self._shown:
                self._shown.add(run.number)
                self.log(tables.run_text(run))
        if self._due():
            self._last = time.monotonic()
            self.log(
                f"{sum(run.closed for run in runs)} of {len(runs)} runs done; {tables.utilisation(workers)}"
            )
            for run in [run for run in runs if not run.closed and run.running is not None][:MAX_RUNS]:
                self.log(f"  {tables.run_text(run)}")

    def _due(self) -> bool:
        return time.monotonic() - self._last >= INTERVAL


class LiveProgress(PlainProgress):
    """A table that is redrawn: the stages of the only run, or all runs with the workers."""

    def __init__(self, console: Console, live: Live, *, several: bool = False) -> None:
        super().__init__(console, several=several)
        self._live = live

    def update(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        self._live.update(tables.table(runs, workers))


@contextmanager
def of_session() -> Iterator[Display]:
    """The display for Python code: on a terminal or in a notebook; elsewhere nothing is shown."""
    console = terminal.console()
    if not (console.is_terminal or console.is_jupyter):
        yield SilentDisplay()
        return
    with of_console(console) as display:
        yield display


@contextmanager
def of_console(console: Console, *, several: bool = False) -> Iterator[PlainProgress]:
    """The display for a terminal, a notebook, a file or a pipe; ``several``: there are several runs."""
    # In a notebook a table is redrawn by ipywidgets.
    if not (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))):
        yield PlainProgress(console, several=several)
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield LiveProgress(console, live, several=several)
