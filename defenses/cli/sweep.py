"""``defenses sweep``: train a recipe at several values of its fields and draw robustness against them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from defenses.cli.options import Threads, set_threads, typed_command
from defenses.recipes.choices import RECIPE, Choices
from defenses.training.options import OUTPUT, TRAINING, MachineOptions
from robust_eval.core.command_options import expand_options

if TYPE_CHECKING:
    from defenses.sweeps.training import SweepRun


@expand_options
def sweep(
    recipes: Annotated[list[str], typer.Argument(help="One or more recipes, or paths to .toml files.")],
    over: Annotated[
        list[str],
        typer.Option(
            help="FIELD=VALUE,VALUE: a field of the recipe, or awp.gamma, A, K1, K2, awp.norm as in the "
            "paper. Repeatable: every combination is trained; the first field is the x axis of the figure.",
            rich_help_panel=RECIPE,
        ),
    ],
    choices: Choices,
    machine: MachineOptions,
    seeds: Annotated[
        str,
        typer.Option(
            help="Seeds of every point, such as 0,1,2; the figure shows mean and standard deviation.",
            rich_help_panel=TRAINING,
        ),
    ] = "0",
    at: Annotated[
        str,
        typer.Option(help="Epoch shown in the figure: best (held-out) or last.", rich_help_panel=OUTPUT),
    ] = "best",
    threads: Threads = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the runs and the figure; repeat the command to continue.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Train a recipe at several values of its fields and draw robustness against them.

    Figures 2 and 3c of the AWP paper are such sweeps. Finished runs are kept and not trained again.
    """
    from rich.markup import escape

    from defenses.reports.figures.sweep import Epoch, draw_sweep, sweep_record, sweep_series
    from defenses.sweeps import axes, training
    from defenses.training.display import ConsoleTrainingDisplay
    from defenses.training.options import TrainOptions
    from defenses.training.runtime import start_runtime
    from defenses.training.seeds import parse_seeds
    from defenses.training.signals import InterruptHandler, TrainingInterrupted
    from robust_eval.core import figure_style, signals, terminal
    from robust_eval.core.errors import unknown

    figure_style.check_installed()
    if at not in ("best", "last"):
        raise unknown("epoch", at, ("best", "last"))
    epoch: Epoch = "best" if at == "best" else "last"
    swept = [axes.parse_axis(text) for text in over]
    points, seed_list = axes.grid(recipes, swept), parse_seeds(seeds)
    options = TrainOptions(
        recipe=recipes[0], choices=choices, tensorboard=False, command=typed_command(), **vars(machine)
    )
    training.check(options, points)
    set_threads(threads)
    folder = out or Path("runs") / "-".join(["sweep", *(Path(name).stem for name in recipes), swept[0].short])
    console, stopper = terminal.console(), InterruptHandler()
    count = len(points) * len(seed_list)
    console.print(f"  {count} run{'s' if count > 1 else ''} in {escape(str(folder))}\n", highlight=False)

    def on_run(run: SweepRun, stored: bool) -> None:
        console.print(_line(run, epoch, stored), highlight=False, markup=False, soft_wrap=True)

    try:
        with stopper.listening():
            runs = training.train_sweep(
                options,
                points,
                seed_list,
                folder,
                start_runtime(machine.device, machine.precision, 1),
                display=ConsoleTrainingDisplay(console),
                stopper=stopper,
                on_run=on_run,
            )
    except (TrainingInterrupted, KeyboardInterrupt):
        console.print(
            f"\nInterrupted. Finished runs and the state of the current one are in {escape(str(folder))}; "
            "repeat the command to continue."
        )
        raise typer.Exit(signals.exit_code()) from None
    series, part = sweep_series(runs, swept, epoch)
    paths = figure_style.save(
        draw_sweep(series, swept[0], part),
        folder / "sweep",
        sweep_record(runs, series, swept, epoch, part),
    )
    console.print(f"\nWritten: {escape(', '.join(map(str, paths)))}", highlight=False)


def _line(run: SweepRun, epoch: str, stored: bool) -> str:
    name = f"{run.folder}{' (already there)' if stored else ''}"
    if run.failed is not None:
        return f"  {name}: did not train. {run.failed}"
    row = run.best if epoch == "best" else run.last
    figures = [
        f"{part} {100 * row[f'{part}_pgd']:.1f}%" for part in ("train", "val", "test") if f"{part}_pgd" in row
    ]
    return f"  {name}: epoch {row['epoch']:.0f}, robust {', '.join(figures)}"
