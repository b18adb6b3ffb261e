"""``robust-eval landscape connectivity``: measure the loss along the line between two checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from robust_eval.cli.landscape.frame import load_checkpoints, run_folder, write_figure
from robust_eval.cli.landscape.options import LANDSCAPE, AttackOptions, OutputOptions, TrainingDataOptions
from robust_eval.cli.options import recognised
from robust_eval.core.command_options import expand_options, option
from robust_eval.evaluation.planning.options import ModelOptions, ThreatOptions


@dataclass(frozen=True, kw_only=True)
class LineOptions:
    """The line between the checkpoints."""

    points: int = option(21, "Number of points on the line, including the ends.", panel=LANDSCAPE)
    interpolate_statistics: bool = option(
        False,
        "Interpolate BatchNorm's running statistics instead of recomputing them at every point.",
        flags=("--interpolate-statistics",),
        panel=LANDSCAPE,
    )


@expand_options
def connectivity(
    a: Annotated[
        str, typer.Argument(help="The checkpoint at t = 0.", show_default=False, callback=recognised)
    ],
    b: Annotated[
        str, typer.Argument(help="The checkpoint at t = 1.", show_default=False, callback=recognised)
    ],
    line: LineOptions,
    data: TrainingDataOptions,
    threat: ThreatOptions,
    attack: AttackOptions,
    model: ModelOptions,
    output: OutputOptions,
) -> None:
    """Measure the adversarial loss along the line between two checkpoints, and the barrier between them.

    Adversarial images are made anew at every point (Liu et al. 2020).
    """
    from robust_eval.core import terminal
    from robust_eval.landscape.liu.connectivity import (
        KIND,
        VERSION,
        barrier,
        connectivity_figure,
        distance,
        has_batchnorm,
        measure,
        parse_points,
        to_data,
    )
    from robust_eval.landscape.liu.measurement import make_measurement

    ts = parse_points(line.points)
    comparison = load_checkpoints([a, b], data, threat, model, output)
    measurement = make_measurement(KIND, VERSION, comparison, **vars(attack))
    recompute = has_batchnorm(comparison.models[0].model) and not line.interpolate_statistics
    console = terminal.console()
    with run_folder(console, measurement, output.out) as folder, console.status("") as status:
        points = measure(
            measurement,
            ts,
            folder,
            recompute=recompute,
            on_result=lambda one: status.update(f"t = {one.t:.2f}"),
        )
    for one in points:
        loss = "not finite" if one.loss is None else f"{one.loss:8.4f}"
        console.print(
            f"  t {one.t:4.2f}  loss {loss}  robust {100 * one.robust:5.1f}%  clean {100 * one.clean:5.1f}%",
            highlight=False,
        )
    height = barrier(points)
    console.print(
        "The barrier is undefined: the loss is not finite at some points of the line."
        if height is None
        else f"Barrier {height:.4f} nats above the line between the ends; the L2 distance of the "
        f"parameters is {distance(*comparison.models):.4g}.",
        highlight=False,
        soft_wrap=True,
    )
    facts = to_data(points, measurement, recompute=recompute)
    write_figure(console, connectivity_figure(points, measurement), folder / KIND, facts)
