"""``robust-eval``: parse, call, render. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from robust_eval.commands._options import (
    Arch,
    Checkpoint,
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
from robust_eval.commands.check import check
from robust_eval.commands.compare import compare
from robust_eval.commands.connectivity import connectivity
from robust_eval.commands.gate import gate
from robust_eval.commands.hessian import hessian
from robust_eval.commands.landscape import landscape
from robust_eval.commands.linear_experiment import linear_experiment
from robust_eval.commands.scattering import scattering
from robust_eval.commands.selftest import selftest
from robust_eval.commands.verify import verify
from robust_eval.commands.weights import weights
from robust_eval.core import terminal
from robust_eval.core.text import visible
from robust_eval.errors import UserError
from robust_eval.leaderboard.cli import app as leaderboard_app

app = typer.Typer(
    help="Attack and judge any checkpoint; keep a leaderboard a stranger can believe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example: robust-eval run ckpt.pt --data cifar10 --eps 8/255 --suite full --examples 1000",
)
app.add_typer(leaderboard_app, name="leaderboard")


@app.command(epilog="Example: robust-eval run ckpt.pt --data cifar10 --suite quick --examples 500")
def run(
    checkpoint: Checkpoint,
    suite: Annotated[str, typer.Option(help="quick, fast, full, union, or column ids: pgd-20,aa.")] = "full",
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
    out: Annotated[Path | None, typer.Option(help="Run folder; the same command continues it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost, run nothing.")
    ] = False,
    diagnose: Diagnose = False,
) -> None:
    """Attack a checkpoint with a suite, judge every image, write result.json and the evidence."""
    from robust_eval import evaluation, fresh, prepare, progress, render, store

    console = terminal.console()
    if out is not None and not dry_run:
        store.refuse_early(out)
    options = prepare.Options(
        checkpoint=checkpoint,
        suite=suite,
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
    )
    job = fresh.reloading(prepare.prepare(options), options)
    request = job.request
    render.print_checkpoint(console, request.checkpoint)
    folder = out or prepare.default_folder(job)
    console.print(f"  images         {render.slice_text(request)}", highlight=False)
    console.print(f"  attacks        {render.suite_text(request)} on {job.x_NCHW.device}", highlight=False)
    if diagnose:
        console.print(f"  diagnosis      {render.diagnosis_text(job)}", highlight=False)
    if dry_run:
        console.print(render.estimate_table(evaluation.estimate(job)))
        return
    console.print(f"  run folder     {escape(str(folder))}\n", highlight=False)
    try:
        with progress.display(request.data.n, request.suite, console) as display:
            result = evaluation.execute(job, folder, display, options.command())
        if diagnose:
            console.print("Diagnosis.")
            result = evaluation.diagnosed(job, result, folder)
    except KeyboardInterrupt:
        console.print(f"\nStopped. Finished work is in {escape(str(folder))}: the same command continues it.")
        raise typer.Exit(130) from None
    render.print_result(console, result)
    console.print(
        f"\nWritten: {escape(str(folder / 'result.json'))}, {escape(str(folder / 'evidence.safetensors'))}"
    )


app.command(epilog="Example: robust-eval check ckpt.pt --data cifar10 --diagnose")(check)
app.command(epilog="Example: robust-eval verify result.json --checkpoint ckpt.pt --audit 20")(verify)
app.command(epilog="Example: robust-eval compare runs/at/result.json runs/at-awp/result.json")(compare)
app.command(epilog="Example: robust-eval gate result.json --min-robust 50 --column aa")(gate)
app.command(epilog="Example: robust-eval selftest --only honest")(selftest)
app.command(epilog="Example: robust-eval landscape at.pt at-awp.pt --examples 500 --points 11")(landscape)
app.command(epilog="Example: robust-eval weights at.pt at-awp.pt")(weights)
app.command(epilog="Example: robust-eval hessian at.pt at-awp.pt --count 5")(hessian)
app.command(epilog="Example: robust-eval scattering at.pt natural.pt --eps 0.1")(scattering)
app.command(epilog="Example: robust-eval connectivity seed0.pt seed1.pt")(connectivity)
app.command(epilog="Example: robust-eval linear-experiment --data digits --classes 3,8")(linear_experiment)


@app.command("list")
def list_() -> None:
    """Suites, columns, attack families, architectures and datasets that can be named."""
    from robust_eval import models
    from robust_eval.core import discover

    kinds = {
        "suites": discover.config_ids("suites"),
        "columns": discover.config_ids("columns"),
        "boards": discover.config_ids("boards"),
        "attack families": discover.module_ids("robust_eval.attacks"),
        "architectures": models.ids(),
        "datasets": discover.module_ids("robust_eval.data"),
    }
    console = terminal.console()
    for kind, names in kinds.items():
        console.print(f"[bold]{kind:16}[/bold] {', '.join(names)}")


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit code 2."""
    # Threads that spin while they wait make small networks many times slower on busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as error:
        Console(stderr=True).print(
            f"[red]Error:[/red] {escape(visible(str(error), 2000))}", soft_wrap=True, highlight=False
        )
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
