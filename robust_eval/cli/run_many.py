"""Several runs, or one on a cluster: what ``robust-eval run`` does with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.markup import escape

from robust_eval.core import terminal

if TYPE_CHECKING:
    from robust_eval.evaluation.executors import Executor
    from robust_eval.evaluation.executors.ray_cluster import Wanted
    from robust_eval.evaluation.executors.scheduled_run import Run
    from robust_eval.evaluation.planning.options import EvaluationOptions


def cluster_of(
    options: Sequence[EvaluationOptions], wanted: Wanted
) -> tuple[list[EvaluationOptions], Executor]:
    """The options as every node understands them, and the workers."""
    from dataclasses import replace

    from robust_eval.core.errors import UserError
    from robust_eval.evaluation.executors import ray_cluster, ray_nodes

    granted = ray_cluster.connect(wanted, options[0].device)
    device = "cuda" if granted.gpus else "cpu"
    found = [replace(ray_nodes.absolute(one), device=device) for one in options]
    needed: dict[str, str] = {}
    for one in found:
        needed |= ray_nodes.paths(one)
    from robust_eval.evaluation.executors.ray import RayExecutor

    # Workers take seconds to start; meanwhile the nodes are asked whether they will do.
    place = RayExecutor(granted)
    try:
        ray_nodes.inspect(needed, granted.gpus)
    except UserError:
        place.close()
        raise
    terminal.console().print(
        f"Ray, {granted.workers} worker{'s' * (granted.workers > 1)}: {granted.gpus:g} GPUs, {granted.cpus} "
        f"CPUs and {granted.memory / ray_cluster.GIB:.1f} GiB each\n",
        highlight=False,
    )
    return found, place


def work(
    options: Sequence[EvaluationOptions],
    place: Executor,
    out: Path | None,
    only: int | None,
    *,
    diagnose: bool,
) -> None:
    """Do the runs with these workers and print their rows. ``only``: one shard of them."""
    from robust_eval.cli import progress_many
    from robust_eval.evaluation.executors import scheduler
    from robust_eval.evaluation.executors.scheduled_run import Run

    console, several = terminal.console(), len(options) > 1
    runs = [
        Run(one, number, out=out, several=several, only=only, diagnose=diagnose)
        for number, one in enumerate(options)
    ]
    try:
        with progress_many.display(console) as display:
            scheduler.Pool(runs, place, display).work()
    except KeyboardInterrupt:
        kept = ", ".join(escape(str(run.folder)) for run in runs if run.folder is not None)
        console.print(f"\nStopped. Finished work is in {kept}: the same command continues it.")
        raise typer.Exit(130) from None
    finally:
        used = progress_many.utilisation(place.workers())
        place.close()
    _report(runs, used)


def _report(runs: Sequence[Run], used: str) -> None:
    from robust_eval.cli import tables
    from robust_eval.core.errors import UserError

    console = terminal.console()
    for run in runs:
        if run.result is not None:
            tables.print_result(console, run.result)
        if run.closed and not run.failures:
            what = "shard" if run.only is not None else "row"
            console.print(f"Written: {what} in {escape(str(run.folder))}\n")
    console.print(used, highlight=False)
    failures = [text for run in runs for text in run.failures]
    if failures:
        more = f" And {len(failures) - 1} more." if len(failures) > 1 else ""
        kept = any(run.store is not None for run in runs)
        again = " Finished work is kept: the same command tries the rest again." if kept else ""
        raise UserError(f"{failures[0].rstrip('.')}.{more}{again}")
