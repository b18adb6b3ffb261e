"""What several runs on several workers show while they work: one live table, or plain lines."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from robust_eval.core.request import CLEAN
from robust_eval.evaluation.executors import WorkerState
from robust_eval.evaluation.executors.scheduled_run import Run

SHOWN = 5
"""Troubles kept in sight under the live table."""
MOST_WORKERS = 16


def state(run: Run) -> str:
    if run.failures:
        return "failed" if run.closed else "in trouble"
    if run.closed:
        return "done"
    if run.waves is None:
        return "loading" if run.outstanding else "waiting"
    return "last look" if run.waves.done else "running"


def columns(run: Run) -> tuple[int, int]:
    """(finished, all) columns, the clean one included."""
    if run.request is None or run.waves is None:
        return 0, 0
    return len(run.waves.finished), len({CLEAN, *(column.id for column in run.request.suite.columns)})


def robust(run: Run) -> str:
    """Robust accuracy under every column that is finished."""
    if run.waves is None or len(run.waves.finished) < 2 or run.only is not None:
        return ""
    bits = np.logical_and.reduce([column.bits for column in run.waves.finished.values()])
    return f"{100 * bits.mean():.2f}%"


def utilisation(workers: Sequence[WorkerState]) -> str:
    """``4 workers, 92% busy``: of the time since each has been up."""
    alive = sum(worker.alive for worker in workers)
    busy = sum(worker.busy for worker in workers)
    up = sum(worker.state != "starting" for worker in workers)
    count = f"{up} worker{'s' * (up != 1)}" + (f" of {len(workers)}" if up != len(workers) else "")
    return f"{count}, {100 * busy / alive if alive else 0:.0f}% busy"


def runs_table(runs: Sequence[Run]) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("checkpoint", "suite", "columns", "units", "robust so far", "state"):
        table.add_column(header, justify="left" if header in ("checkpoint", "suite", "state") else "right")
    for run in runs:
        finished, everything = columns(run)
        table.add_row(
            escape(run.name),
            escape(run.options.suite),
            f"{finished}/{everything}" if everything else "",
            f"{run.done}/{len(run.units)}" if run.units else "",
            robust(run),
            state(run),
        )
    return table


def workers_table(workers: Sequence[WorkerState]) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("worker", "busy", "tasks", ""):
        table.add_column(header, justify="right" if header in ("busy", "tasks") else "left")
    for worker in workers[:MOST_WORKERS]:
        table.add_row(
            escape(worker.name), f"{100 * worker.utilisation:.0f}%", str(worker.tasks), escape(worker.state)
        )
    if len(workers) > MOST_WORKERS:
        table.add_row(f"[dim]and {len(workers) - MOST_WORKERS} more[/dim]", "", "", "")
    return table


class PlainPool:
    """A line per finished run and per trouble, and one every half minute in between."""

    EVERY = 30.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = time.monotonic()
        self._told: set[int] = set()
        self.workers: Sequence[WorkerState] = ()

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def tick(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        self.workers = workers
        for run in runs:
            if run.closed and run.number not in self._told:
                self._told.add(run.number)
                self.say(f"{run.name} ({run.options.suite}): {state(run)}, {run.done}/{len(run.units)} units")
        if time.monotonic() - self._last < self.EVERY:
            return
        self._last = time.monotonic()
        under_way = [run for run in runs if not run.closed and run.units]
        self.say(f"{sum(run.closed for run in runs)} of {len(runs)} runs done; {utilisation(workers)}")
        for run in under_way[:SHOWN]:
            finished, everything = columns(run)
            known = f"{run.done}/{len(run.units)} units known so far"
            self.say(f"  {run.name}: {finished}/{everything} columns, {known}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LivePool:
    """A table that redraws itself: all runs, the workers, and the last troubles."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4)
        self._troubles: list[str] = []
        self.workers: Sequence[WorkerState] = ()

    def say(self, text: str) -> None:
        self._troubles.append(text)

    def tick(self, runs: Sequence[Run], workers: Sequence[WorkerState]) -> None:
        self.workers = workers
        troubles = [f"[yellow]{escape(text)}[/yellow]" for text in self._troubles[-SHOWN:]]
        more = len(self._troubles) - len(troubles)
        if more > 0:
            troubles.insert(0, f"[dim]{more} earlier ones[/dim]")
        used = f"[dim]{utilisation(workers)}[/dim]"
        self._live.update(Group(runs_table(runs), "", workers_table(workers), used, *troubles))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()


def display(console: Console) -> PlainPool | LivePool:
    return LivePool(console) if console.is_terminal else PlainPool(console)
