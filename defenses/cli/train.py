"""``defenses train``: train a recipe, with one or several seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from defenses.cli.options import Recipe, Threads, set_threads, typed_command
from defenses.recipes.choices import Choices
from defenses.training.options import TRAINING, TrainOptions
from robust_eval.core.command_options import expand_options


@expand_options
def train(
    recipe: Recipe,
    choices: Choices,
    options: TrainOptions,
    seeds: Annotated[
        str | None,
        typer.Option(
            help="Several seeds, such as 0,1,2: one run each, then mean and standard deviation.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    threads: Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its time; train nothing.")
    ] = False,
) -> None:
    """Train a recipe. The run folder receives the checkpoints, the learning curve and a record of the run."""
    from robust_eval.models.loading import file_head

    if options.init and options.init.strip():
        file_head.check_source(options.init)  # before torch is imported
    from defenses.cli.train_runs import print_plan, train_runs
    from robust_eval.core import terminal

    set_threads(threads)
    options = replace(options, recipe=recipe, choices=choices, command=typed_command())
    if dry_run:
        print_plan(options, terminal.console(), seeds=seeds)
    else:
        train_runs(options, terminal.console(), seeds=seeds)
