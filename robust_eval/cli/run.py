"""``robust-eval run``: evaluate checkpoints, on this machine or on a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from robust_eval.cli.options import DIAGNOSE, Checkpoints
from robust_eval.core import signals, terminal
from robust_eval.core.command_options import expand_options, option
from robust_eval.core.errors import UserError
from robust_eval.core.text import duration
from robust_eval.evaluation.planning.options import (
    ATTACK,
    MACHINES,
    ClusterOptions,
    EvaluationOptions,
    check_workers,
)

if TYPE_CHECKING:
    from rich.console import Console

    from robust_eval.evaluation.attack_copy import Log
    from robust_eval.evaluation.executors import Executor
    from robust_eval.evaluation.executors.scheduled_run import Run

Suites = Annotated[
    list[str] | None,
    typer.Option(
        "--suite",
        help="quick, fast, full (default), union, column ids such as pgd-20,aa, or files (TOML, or an "
        "attack's code). May be repeated.",
        rich_help_panel=ATTACK,
    ),
]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how much of the request is run."""

    out: Path | None = option(
        None, "Run folder; with several checkpoints, the parent folder. The same command continues it."
    )
    dry_run: bool = option(False, "Print the plan and its cost; run nothing.", flags=("--dry-run",))
    diagnose: bool = option(False, DIAGNOSE, flags=("--diagnose",))
    executor: str = option("local", "local (this machine) or ray.", panel=MACHINES)
    shard: str | None = option(
        None, "I/N: run only shard I of N of the examples; then robust-eval merge.", panel=MACHINES
    )


@expand_options
def run(
    checkpoints: Checkpoints,
    options: EvaluationOptions,
    where: RunOptions,
    cluster: ClusterOptions,
    suites: Suites = None,
) -> None:
    """Attack checkpoints with a suite, judge every image, and write result.json and the evidence of each."""
    options, shard = _with_shard(options, where)
    each = [
        replace(options, checkpoint=checkpoint, suite=name)
        for checkpoint in checkpoints
        for name in suites or ["full"]
    ]
    _check(each, where, cluster)
    console = terminal.console()
    if where.dry_run:
        _print_plan(console, each[0], where)
    elif where.executor == "ray":
        each, executor = _start_ray(console, each, cluster)
        _work(console, each, where, shard, lambda _log: executor)
    else:
        _work(console, each, where, shard, partial(_this_machine, cluster, each[0].device))


def _with_shard(options: EvaluationOptions, where: RunOptions) -> tuple[EvaluationOptions, int | None]:
    """The options with the number of shards, and the shard to run, counted from 0."""
    if where.shard is None:
        return options, None
    from robust_eval.evaluation.executors import shards

    number, of = shards.parse(where.shard)
    if options.shards != 1:
        raise UserError(f"--shard {where.shard} already plans {of} shards: leave --shards out.")
    if where.diagnose:
        raise UserError(
            "--diagnose needs the whole run: leave it out, merge the shards, then run the command with "
            f"--shards {of} --diagnose --out MERGED_FOLDER."
        )
    if where.dry_run:
        raise UserError(f"--dry-run plans the whole run: leave --shard out, each shard is one of {of} parts.")
    return replace(options, shards=of), number


def _check(each: Sequence[EvaluationOptions], where: RunOptions, cluster: ClusterOptions) -> None:
    """Refuse what cannot work before anything is loaded."""
    from robust_eval.evaluation import store
    from robust_eval.evaluation.planning import suites

    if where.executor not in ("local", "ray"):
        raise UserError(f"Unknown executor '{where.executor}'. Use local or ray.")
    if where.executor == "local" and replace(cluster, workers=None, cpus=None) != ClusterOptions():
        raise UserError("--address, --worker-gpus and --worker-memory need --executor ray.")
    check_workers(cluster)
    if len(each) > len(set(each)):
        raise UserError("A checkpoint is named twice with the same suite. Name it once.")
    if len(each) > 1 and where.dry_run:
        raise UserError("--dry-run plans one checkpoint and suite at a time: give one of each.")
    for name in dict.fromkeys(one.suite for one in each):
        suites.load(name)
    if where.out is not None and not where.dry_run and len(each) == 1 and where.shard is None:
        store.refuse_unusable_folder(where.out)


def _print_plan(console: Console, options: EvaluationOptions, where: RunOptions) -> None:
    from robust_eval.cli import tables
    from robust_eval.evaluation.checks import diagnosis
    from robust_eval.evaluation.job import estimate
    from robust_eval.evaluation.prepare import prepare
    from robust_eval.evaluation.progress import descriptions

    start = time.perf_counter()
    job = prepare(options)
    loading = time.perf_counter() - start
    descriptions.print_request(console, job.request, options.device)
    if where.diagnose:
        console.print(f"  diagnosis      {diagnosis.cost_text(job)}", highlight=False)
    for note in job.notes:
        console.print(f"  search         {escape(note)}", highlight=False)
    console.print(f"  loading        {duration(loading)}, measured", highlight=False)
    console.print(tables.estimate_table(estimate(job)))


def _start_ray(
    console: Console, each: Sequence[EvaluationOptions], cluster: ClusterOptions
) -> tuple[list[EvaluationOptions], Executor]:
    """The options as every node understands them, and the workers."""
    from robust_eval.evaluation.executors import ray_cluster, ray_nodes

    granted = ray_cluster.connect(cluster, each[0].device)
    device = "cuda" if granted.gpus else "cpu"
    found = [replace(ray_nodes.absolute(one), device=device) for one in each]
    needed: dict[str, str] = {}
    for one in found:
        needed |= ray_nodes.paths(one)
    from robust_eval.evaluation.executors.ray import RayExecutor

    # Workers take seconds to start; the nodes are checked meanwhile.
    executor = RayExecutor(granted)
    try:
        ray_nodes.inspect(needed, granted.gpus)
    except UserError:
        executor.close()
        raise
    console.print(
        f"Ray, {granted.workers} worker{'s' * (granted.workers > 1)}: {granted.gpus:g} GPUs, {granted.cpus} "
        f"CPUs and {granted.memory / ray_cluster.GIB:.1f} GiB each\n",
        highlight=False,
    )
    return found, executor


def _work(
    console: Console,
    each: Sequence[EvaluationOptions],
    where: RunOptions,
    shard: int | None,
    start: Callable[[Log], Executor],
) -> None:
    """Run everything and print the results; ``start``: the executor, which logs its decisions."""
    from robust_eval.evaluation.executors.run_spec import make_run_spec
    from robust_eval.evaluation.executors.scheduler import Scheduler
    from robust_eval.evaluation.progress import displays

    parent = len(each) > 1
    specs = [
        make_run_spec(one, where.out, parent=parent, shard=shard, diagnose=where.diagnose) for one in each
    ]
    # Ray has replaced the handler of SIGTERM.
    with signals.handled(signals.interrupt), displays.of_console(console, several=parent) as display:
        executor = start(display.log)
        scheduler = Scheduler(specs, executor, display)
        try:
            scheduler.work()
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        finally:
            workers = executor.workers()
            executor.close()
    if interrupted:
        folders = ", ".join(escape(str(run.folder)) for run in scheduler.runs if run.folder is not None)
        done = f"Finished work is in {folders}" if folders else "No work had begun"
        console.print(f"\nInterrupted. {done}: the same command continues it.", soft_wrap=True)
        raise typer.Exit(signals.exit_code())
    _report(console, scheduler.runs)
    if len(workers) > 1:
        from robust_eval.evaluation.progress.tables import utilisation

        console.print(utilisation(workers), highlight=False)
    _raise_failures(scheduler.runs)


def _this_machine(cluster: ClusterOptions, device: str, log: Log) -> Executor:
    from robust_eval.evaluation.executors.machine import MachineExecutor, gpus

    return MachineExecutor(cluster.workers, cluster.cpus, log, gpus(device))


def _report(console: Console, runs: Sequence[Run]) -> None:
    from robust_eval.cli import tables

    for run in runs:
        if run.result is not None:
            tables.print_result(console, run.result)
        if run.closed and not run.failures and run.folder is not None:
            console.print(f"\nWritten: {escape(tables.written_text(run))}")


def _raise_failures(runs: Sequence[Run]) -> None:
    failures = [(run, text) for run in runs for text in run.failures]
    if not failures:
        return
    run, text = failures[0]
    if len(runs) == 1 and run.error is not None and not isinstance(run.error, UserError):
        raise run.error
    more = f" And {len(failures) - 1} more." if len(failures) > 1 else ""
    kept = any(run.running is not None for run in runs if run.failures)
    again = " Finished work is kept: the same command continues the rest." if kept and len(runs) > 1 else ""
    end = "" if text.endswith((".", "?")) else "."
    raise UserError(f"{text}{end}{more}{again}")
