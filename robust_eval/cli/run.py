"""``robust-eval run``: one checkpoint in this process, or many, or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from robust_eval.cli.options import (
    Arch,
    Checkpoints,
    Compile,
    Data,
    DataRoot,
    Device,
    Diagnose,
    Eps,
    Norm,
    Normalisation,
    Precision,
)
from robust_eval.core import terminal

if TYPE_CHECKING:
    from robust_eval.evaluation.planning.options import EvaluationOptions


def run(
    checkpoints: Checkpoints,
    suite: Annotated[
        list[str] | None,
        typer.Option(
            help="quick, fast, full (the default), union, or column ids: pgd-20,aa. Repeat it for several."
        ),
    ] = None,
    data: Data = None,
    data_root: DataRoot = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    examples: Annotated[int | None, typer.Option(help="Only the first N examples.")] = None,
    norm: Norm = None,
    eps: Eps = None,
    arch: Arch = None,
    normalisation: Normalisation = None,
    device: Device = "auto",
    batch_size: Annotated[int | None, typer.Option(help="Examples per work unit.")] = None,
    seed: Annotated[int, typer.Option(help="Root seed of all attacks.")] = 0,
    precision: Precision = "float32",
    compile: Compile = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder (of several: that of theirs); the same command continues it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost, run nothing.")
    ] = False,
    diagnose: Diagnose = False,
    executor: Annotated[str, typer.Option(help="local (this process) or ray.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Ray: auto (the cluster of this machine), HOST:PORT, or local (one of our own)."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Ray: workers; one per GPU, or per CPU, else.")] = None,
    worker_gpus: Annotated[float | None, typer.Option(help="Ray: GPUs of each; 0.5 shares one.")] = None,
    worker_cpus: Annotated[
        int | None, typer.Option(help="Ray: CPUs, and threads, of each; 1 where it is not given.")
    ] = None,
    worker_memory: Annotated[float | None, typer.Option(help="Ray: memory of each, in GiB.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="I/N: one of N parts of the examples; then robust-eval merge.")
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(help="Cut the examples as N shards would, to get their verdicts in one run.")
    ] = None,
) -> None:
    """Attack checkpoints with a suite, judge every image, write result.json and the evidence of each."""
    from robust_eval.cli import run_many
    from robust_eval.core.errors import UserError
    from robust_eval.evaluation import store
    from robust_eval.evaluation.executors import shards
    from robust_eval.evaluation.planning import suites
    from robust_eval.evaluation.planning.options import EvaluationOptions

    only = None
    if shard is not None:
        only, of = shards.parse(shard)
        if blocks is not None:
            raise UserError(
                f"--shard {shard} cuts the examples into {of} blocks already: leave --blocks out."
            )
        if diagnose:
            raise UserError(
                "--diagnose needs the whole run: leave it out, merge the shards, then give the command with "
                f"--blocks {of} --diagnose --out MERGED_FOLDER."
            )
        if dry_run:
            raise UserError(
                f"--dry-run plans the whole run: leave --shard out, each shard is one of {of} parts."
            )
        blocks = of
    options = [
        EvaluationOptions(
            checkpoint=checkpoint,
            suite=name,
            data=data,
            data_root=data_root,
            split=split,
            examples=examples,
            norm=norm,
            eps=eps,
            arch=arch,
            normalisation=normalisation,
            device=device,
            batch_size=batch_size,
            seed=seed,
            precision=precision,
            compile=compile,
            shards=1 if blocks is None else blocks,
        )
        for checkpoint in checkpoints
        for name in suite or ["full"]
    ]
    if out is not None and not dry_run and len(options) == 1:
        store.refuse_early(out)
    if executor not in ("local", "ray"):
        raise UserError(f"Unknown executor '{executor}'. Use local or ray.")
    of_ray = (address, workers, worker_gpus, worker_cpus, worker_memory)
    if executor == "local" and any(value is not None for value in of_ray):
        raise UserError("--address, --workers and --worker-... need --executor ray.")
    if len(options) > len(set(options)):
        raise UserError("A checkpoint is named twice with the same suite. Name it once.")
    if len(options) > 1 and dry_run:
        raise UserError("--dry-run plans one checkpoint and suite at a time.")
    if dry_run or (executor == "local" and len(options) == 1 and only is None):
        _alone(options[0], out, dry_run=dry_run, diagnose=diagnose)
        return
    for name in {one.suite for one in options}:
        suites.load(name)
    if executor == "ray":
        from robust_eval.evaluation.executors.ray_cluster import Wanted

        memory = None if worker_memory is None else int(worker_memory * 2**30)
        cpus = 1 if worker_cpus is None else worker_cpus
        wanted = Wanted(address=address, workers=workers, gpus=worker_gpus, cpus=cpus, memory=memory)
        options, place = run_many.cluster_of(options, wanted)
    else:
        from robust_eval.evaluation.executors.local import LocalExecutor

        place = LocalExecutor()
    run_many.work(options, place, out, only, diagnose=diagnose)


def _alone(options: EvaluationOptions, out: Path | None, *, dry_run: bool, diagnose: bool) -> None:
    from robust_eval.cli import progress, tables
    from robust_eval.evaluation import fresh_process, prepare
    from robust_eval.evaluation import run as evaluation
    from robust_eval.evaluation.checks import diagnosed_result
    from robust_eval.evaluation.job import estimate

    console = terminal.console()
    job = fresh_process.reloading(prepare.prepare(options), options)
    request = job.request
    tables.print_checkpoint(console, request.checkpoint)
    folder = out or prepare.default_folder(request)
    console.print(f"  images         {tables.slice_text(request)}", highlight=False)
    console.print(f"  attacks        {tables.suite_text(request)} on {job.x_NCHW.device}", highlight=False)
    if diagnose:
        console.print(f"  diagnosis      {tables.diagnosis_text(job)}", highlight=False)
    if dry_run:
        for note in job.notes:
            console.print(f"  search         {escape(note)}", highlight=False)
        console.print(tables.estimate_table(estimate(job)))
        return
    console.print(f"  run folder     {escape(str(folder))}\n", highlight=False)
    try:
        with progress.display(request.data.n, request.suite, console) as display:
            result = evaluation.execute(job, folder, display, options.command())
        if diagnose:
            console.print("Diagnosis.")
            result = diagnosed_result.diagnosed(job, result, folder)
    except KeyboardInterrupt:
        console.print(f"\nStopped. Finished work is in {escape(str(folder))}: the same command continues it.")
        raise typer.Exit(130) from None
    tables.print_result(console, result)
    console.print(
        f"\nWritten: {escape(str(folder / 'result.json'))}, {escape(str(folder / 'evidence.safetensors'))}"
    )
