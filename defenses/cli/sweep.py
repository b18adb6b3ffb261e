"""``defenses sweep``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    Set,
    Threads,
    choices,
)

if TYPE_CHECKING:
    from defenses.sweeps.training import SweepRun


def sweep(
    recipes: Annotated[list[str], typer.Argument(help="One or more recipes, or paths to .toml files.")],
    over: Annotated[
        list[str],
        typer.Option(
            help="FIELD=VALUE,VALUE: a recipe's field, or awp.gamma, A, K1, K2, awp.norm as in the paper. "
            "Repeated: every combination; the first is the figure's x axis."
        ),
    ],
    data: Data = "cifar10",
    data_root: DataRoot = None,
    arch: Arch = None,
    norm: Norm = None,
    eps: Eps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    sets: Set = None,
    seeds: Annotated[str, typer.Option(help="Seeds of every point, such as 0,1,2: mean and spread.")] = "0",
    at: Annotated[str, typer.Option(help="Which epoch the figure shows: best (held-out) or last.")] = "best",
    device: Device = "auto",
    precision: Precision = "32",
    compile: Compile = "auto",
    threads: Threads = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs and the figure; the same command continues it.")
    ] = None,
) -> None:
    """Train a recipe at several values of its fields; the figure at the end (AWP paper, Figures 2 and 3c)."""
    from rich.markup import escape

    from defenses.reports.figures import sweep as drawing
    from defenses.sweeps import axes, training
    from defenses.training.display import Lines
    from defenses.training.job import Options
    from defenses.training.runtime import start
    from defenses.training.seeds import parse_seeds
    from defenses.training.signals import Stopped, Stopper
    from robust_eval.core import figure_style, terminal
    from robust_eval.core.errors import UserError, unknown

    if at not in ("best", "last"):
        raise unknown("epoch", at, ("best", "last"))
    when: drawing.When = "best" if at == "best" else "last"
    wanted = [axes.parse_axis(text) for text in over]
    places, many = axes.grid(recipes, wanted), parse_seeds(seeds)
    base = Options(
        recipe=recipes[0],
        choices=choices(data, arch, norm, eps, epochs, batch_size, sets),
        data_root=data_root,
        device=device,
        precision=precision,
        compile=compile,
        tensorboard=False,
        command=shlex.join(["defenses", *sys.argv[1:]]),
    )
    training.check(base, places)
    if threads is not None:
        import torch

        if threads < 1:
            raise UserError(f"--threads must be at least 1, got {threads}.")
        torch.set_num_threads(threads)
    folder = out or Path("runs") / "-".join(
        ["sweep", *(Path(name).stem for name in recipes), wanted[0].short]
    )
    console, stopper = terminal.console(), Stopper()
    count = len(places) * len(many)
    console.print(f"  {count} run{'s' if count > 1 else ''} in {escape(str(folder))}\n", highlight=False)

    def told(trained: SweepRun, known: bool) -> None:
        console.print(_line(trained, when, known), highlight=False, markup=False, soft_wrap=True)

    try:
        with stopper.listening():
            found = training.run(
                base,
                places,
                many,
                folder,
                start(device, precision, 1),
                display=Lines(console),
                stopper=stopper,
                told=told,
            )
    except (Stopped, KeyboardInterrupt):
        console.print(
            f"\nStopped; finished runs and the state are in {escape(str(folder))}: the same command goes on."
        )
        raise typer.Exit(130) from None
    lines, part = drawing.series(found, wanted, when)
    paths = figure_style.save(
        drawing.draw(lines, wanted[0], part), folder / "sweep", drawing.data(found, lines, wanted, when, part)
    )
    console.print(f"\nWritten: {escape(', '.join(map(str, paths)))}", highlight=False)


def _line(trained: SweepRun, when: str, known: bool) -> str:
    name = f"{trained.folder}{' (already there)' if known else ''}"
    if trained.failed is not None:
        return f"  {name}: did not train. {trained.failed}"
    row = trained.best if when == "best" else trained.last
    figures = [
        f"{part} {100 * row[f'{part}_pgd']:.1f}%" for part in ("train", "val", "test") if f"{part}_pgd" in row
    ]
    return f"  {name}: epoch {row['epoch']:.0f}, robust {', '.join(figures)}"
