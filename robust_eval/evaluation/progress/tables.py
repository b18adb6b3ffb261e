"""The tables and lines of the progress display, from the state of the runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from robust_eval.core.request import CLEAN
from robust_eval.core.text import duration
from robust_eval.evaluation.executors import WorkerState
from robust_eval.evaluation.executors.run_states import Running, StageProgress, Waiting
from robust_eval.evaluation.executors.scheduled_run import Run

MAX_WORKERS = 16
"""Workers shown one by one."""


def table(runs: Sequence[Run], workers: Sequence[WorkerState]) -> Table | Group:
    """One run: its stages; several runs: the runs. With several workers these too."""
    running = runs[0].running
    if len(runs) > 1:
        top = runs_table(runs)
    else:
        top = stages_table(running) if running is not None else Table(box=None)
    if len(runs) == len(workers) == 1:
        return top
    return Group(top, "", workers_table(workers), f"[dim]{utilisation(workers)}[/dim]")


def stages_table(running: Running) -> Table:
    found = _table(("attack",), ("done", "broken", "robust accuracy", "left"))
    for stage in running.stages:
        left = stage.seconds_left()
        found.add_row(
            stage.column if stage.column == stage.attack else f"{stage.column} [dim]{stage.attack}[/dim]",
            f"{stage.done}/{stage.attacked}",
            str(stage.broken),
            _robust_so_far(stage, running),
            "" if left == 0.0 else "..." if left is None else duration(left),
        )
    started = {stage.column for stage in running.stages}
    for column in running.opened.request.suite.columns:
        if column.id not in started and column.id != CLEAN:
            found.add_row(f"[dim]{column.id}[/dim]", "", "", "", "[dim]waiting[/dim]")
    return found


def stage_text(stage: StageProgress, running: Running) -> str:
    """One line about a stage."""
    left = stage.seconds_left()
    label = stage.column if stage.column == stage.attack else f"{stage.column}/{stage.attack}"
    rest = f", about {duration(left)} left" if left else ", stored" if stage.done and not stage.timed else ""
    return (
        f"{label}: {stage.done}/{stage.attacked} done, {stage.broken} broken, "
        f"robust accuracy {_robust_so_far(stage, running)}{rest}"
    )


def _robust_so_far(stage: StageProgress, running: Running) -> str:
    """Robust accuracy if no further example is broken."""
    return f"{100 * (stage.attacked - stage.broken) / running.n:.2f}%"


def runs_table(runs: Sequence[Run]) -> Table:
    found = _table(("checkpoint", "suite"), ("columns", "units", "robust so far"), ("state",))
    for run in runs:
        running = run.running
        columns = units = ""
        if running is not None:
            columns = f"{len(running.cascade.finished)}/{running.cascade.n_columns}"
            units = f"{running.done}/{len(running.units)}"
        suite = run.opened.request.suite.name if run.opened is not None else ""
        found.add_row(escape(run.spec.name), escape(suite), columns, units, _robust(running), state(run))
    return found


def run_text(run: Run) -> str:
    """One line about a run of several."""
    running = run.running
    if running is None:
        return f"{run.spec.name}: {state(run)}"
    columns = f"{len(running.cascade.finished)}/{running.cascade.n_columns} columns"
    suite = running.opened.request.suite.name
    return f"{run.spec.name} ({suite}): {state(run)}, {columns}, {running.done}/{len(running.units)} units"


def state(run: Run) -> str:
    if run.failures:
        return "failed" if run.closed else "failing"
    if run.closed:
        return "done"
    if run.running is None:
        return "loading" if run.outstanding or not isinstance(run.state, Waiting) else "waiting"
    return "finishing" if run.running.cascade.done else "running"


def _robust(running: Running | None) -> str:
    """Robust accuracy under all finished columns."""
    if running is None or len(running.cascade.finished) < 2 or running.opened.spec.shard is not None:
        return ""
    bits = np.logical_and.reduce([column.bits for column in running.cascade.finished.values()])
    return f"{100 * bits.mean():.2f}%"


def workers_table(workers: Sequence[WorkerState]) -> Table:
    found = _table(("worker",), ("busy", "tasks"), ("",))
    for worker in workers[:MAX_WORKERS]:
        busy = f"{100 * worker.utilisation:.0f}%"
        found.add_row(escape(worker.name), busy, str(worker.tasks), escape(worker.state))
    if len(workers) > MAX_WORKERS:
        found.add_row(f"[dim]and {len(workers) - MAX_WORKERS} more[/dim]", "", "", "")
    return found


def utilisation(workers: Sequence[WorkerState]) -> str:
    """``4 workers, 92% busy``: of the time since each started."""
    alive = sum(worker.alive for worker in workers)
    busy = sum(worker.busy for worker in workers)
    up = sum(worker.state != "starting" for worker in workers)
    count = f"{up} worker{'s' * (up != 1)}" + (f" of {len(workers)}" if up != len(workers) else "")
    return f"{count}, {100 * busy / alive if alive else 0:.0f}% busy"


def _table(texts: Sequence[str], numbers: Sequence[str], more: Sequence[str] = ()) -> Table:
    """An empty table; columns of numbers are aligned to the right."""
    found = Table(box=None, pad_edge=False)
    for header in (*texts, *numbers, *more):
        found.add_column(header, justify="right" if header in numbers else "left")
    return found
