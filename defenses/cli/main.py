"""``defenses``: parse, call, render. Heavy imports wait until a command runs."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from defenses.cli.curves import curves
from defenses.cli.options import (
    Arch,
    BatchSize,
    Compile,
    Data,
    DataRoot,
    Device,
    Epochs,
    Eps,
    Norm,
    Precision,
    Recipe,
    Set,
    Threads,
)
from defenses.cli.options import choices as chosen
from defenses.cli.sweep import sweep
from defenses.cli.table import table
from robust_eval.core import terminal
from robust_eval.core.errors import UserError

app = typer.Typer(
    help="Train the defenses of the AWP paper and its comparisons, with and without weight perturbation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Example: defenses train trades-awp --data cifar10 --arch preact-resnet-18",
)
console = terminal.console()


@app.command("list")
def list_() -> None:
    """Every recipe, and what it extends."""
    from defenses.cli import show

    show.list_recipes(console)


@app.command(epilog="Example: defenses show trades-awp --data mnist")
def show(
    recipe: Recipe,
    data: Data = "cifar10",
    arch: Arch = None,
    norm: Norm = None,
    eps: Eps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    sets: Set = None,
) -> None:
    """The resolved recipe, with the source of every number."""
    from defenses.cli import show as rendering
    from defenses.recipes.resolve import resolve

    choices = chosen(data, arch, norm, eps, epochs, batch_size, sets)
    rendering.show_recipe(console, resolve(recipe, choices), data)


@app.command(epilog="Example: defenses train at-awp --data digits --seeds 0,1,2")
def train(
    recipe: Recipe,
    data: Data = "cifar10",
    data_root: DataRoot = None,
    arch: Arch = None,
    norm: Norm = None,
    eps: Eps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    sets: Set = None,
    init: Annotated[str | None, typer.Option(help="Checkpoint to start from.")] = None,
    extra_data: Annotated[
        str | None, typer.Option(help="More labelled images, npz:FILE or folder:DIR.")
    ] = None,
    unlabelled: Annotated[
        str | None, typer.Option(help="Pseudo-labelled images, as `defenses pseudo-label` writes them.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, batches and attacks.")] = 0,
    seeds: Annotated[
        str | None, typer.Option(help="Several, such as 0,1,2: one run each, then mean and spread.")
    ] = None,
    device: Device = "auto",
    precision: Precision = "32",
    compile: Compile = "auto",
    devices: Annotated[int, typer.Option(help="Processes on each machine, one per device.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines; the command is given on each.")] = 1,
    threads: Threads = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the same command stopped.")] = False,
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard curves beside the CSV.")] = True,
) -> None:
    """Train a recipe: checkpoints, learning curve and the record of what was run go to the run folder."""
    from defenses.cli import train as session
    from defenses.training.job import TrainOptions

    options = TrainOptions(
        recipe=recipe,
        choices=chosen(data, arch, norm, eps, epochs, batch_size, sets),
        data_root=data_root,
        init=init,
        extra_data=extra_data,
        unlabelled=unlabelled,
        seed=seed,
        device=device,
        precision=precision,
        compile=compile,
        devices=devices,
        nodes=nodes,
        out=out,
        resume=resume,
        tensorboard=tensorboard,
        command=shlex.join(["defenses", *sys.argv[1:]]),
    )
    session.run(options, console, seeds=seeds, threads=threads)


@app.command(epilog="Example: defenses pseudo-label natural/best.pt --data npz:more.npz --out labelled.npz")
def pseudo_label(
    checkpoint: Annotated[str, typer.Argument(help="The model that gives the labels.")],
    data: Annotated[str, typer.Option(help="Unlabelled images: npz:FILE (y may be missing) or folder:DIR.")],
    out: Annotated[Path, typer.Option(help="The .npz to write.")],
    data_root: DataRoot = None,
    min_confidence: Annotated[float, typer.Option(help="Leave out images below this probability.")] = 0.0,
    device: Device = "auto",
) -> None:
    """Label images with a model's predictions, for `defenses train rst --unlabelled`."""
    from defenses.training.pseudo_labels import write_pseudo_labels
    from robust_eval.core.devices import pick_device

    place = str(pick_device(device))
    done = write_pseudo_labels(
        checkpoint, data, out, data_root=data_root, min_confidence=min_confidence, device=place
    )
    console.print(
        f"Written: {escape(str(done.path))}: {done.kept} of {done.seen} images, mean confidence "
        f"{done.mean_confidence:.3f}, {min(done.classes)} to {max(done.classes)} per class",
        highlight=False,
    )


app.command(epilog="Example: defenses sweep at-awp --over awp.gamma=0,1e-3,5e-3,1e-2 --data digits")(sweep)
app.command(epilog="Example: defenses curves runs/at runs/at-awp --out gap")(curves)
app.command(epilog="Example: defenses table 1 runs --out table1")(table)


def main() -> None:
    """Run the command line; a user's mistake is one sentence on stderr and exit code 2."""
    # Threads that spin while they wait make small networks many times slower on busy cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as error:
        Console(stderr=True).print(f"[red]Error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
