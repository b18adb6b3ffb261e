"""``robust-eval landscape curve``: measure the adversarial loss along random directions in weight space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from robust_eval.cli.landscape.frame import load_checkpoints, new_table, write_figure
from robust_eval.cli.landscape.options import (
    Checkpoints,
    GridOptions,
    OutputOptions,
    ScanAttackOptions,
    TrainingDataOptions,
)
from robust_eval.core.command_options import expand_options
from robust_eval.evaluation.planning.options import ModelOptions, ThreatOptions

if TYPE_CHECKING:
    from rich.table import Table

    from robust_eval.landscape.awp.curve import Curve


@expand_options
def curve(
    checkpoints: Checkpoints,
    grid: GridOptions,
    data: TrainingDataOptions,
    threat: ThreatOptions,
    attack: ScanAttackOptions,
    model: ModelOptions,
    output: OutputOptions,
    pre_generated: Annotated[
        bool,
        typer.Option(
            "--pre-generated",
            help="Also draw the variant with adversarial images made once at alpha = 0, which is misleading.",
        ),
    ] = False,
) -> None:
    """Measure the adversarial loss along random directions in weight space (Wu et al. 2020, Figure 1).

    Writes a figure (PNG, SVG) and its data (JSON), and prints the flatness. Adversarial images are made anew
    at every point. All checkpoints have the same directions, images and attack noise. Finished points are
    stored; more points can be added in the same folder.
    """
    from robust_eval.cli.landscape.scan import measure_scan
    from robust_eval.core import terminal
    from robust_eval.landscape.awp.curve import KIND, curves, plan, to_data
    from robust_eval.landscape.awp.figures import curve_figure
    from robust_eval.landscape.awp.scan import make_scan, parse_alphas
    from robust_eval.landscape.option_checks import require_at_least

    console = terminal.console()
    alphas = parse_alphas(grid.span, grid.points)
    require_at_least("--directions", grid.directions)
    comparison = load_checkpoints(checkpoints, data, threat, model, output)
    scan = make_scan(
        comparison, directions=grid.directions, direction_file=grid.direction_file, **vars(attack)
    )
    wanted = plan(alphas, grid.directions, pre_generated=pre_generated)
    losses, folder = measure_scan(console, scan, wanted, output.out)
    anew = curves(scan, alphas, losses)
    fixed = curves(scan, alphas, losses, "at-w") if pre_generated else []
    console.print(_flatness_table(anew, "Flatness of g(α)"))
    if fixed:
        console.print(_flatness_table(fixed, "Flatness with pre-generated images (misleading)"))
    write_figure(console, curve_figure(scan, anew, fixed), folder / KIND, to_data(scan, anew, fixed, losses))


def _flatness_table(curves: Sequence[Curve], title: str) -> Table:
    from robust_eval.cli.landscape.scan import loss_text

    table = new_table(title, "checkpoint", "g(0)", "robust at 0", "sharpness", "reach", "not finite")
    for one in curves:
        flat = one.flatness()
        deviation = "" if flat.sharpness_std is None else f" ± {flat.sharpness_std:.4f}"
        reach = "beyond" if flat.reach is None else f"{flat.reach:.3g} ({flat.reached}/{len(one.losses)})"
        table.add_row(
            one.label,
            f"{one.at_w:.4f}",
            f"{100 * one.accuracies[0, len(one.alphas) // 2]:.2f}%",
            f"{loss_text(flat.sharpness)}{deviation}",
            reach,
            str(len(one.not_finite())),
        )
    table.caption = "sharpness: mean |g(α) - g(0)| in nats; reach: |α| at which g has risen by 1 nat"
    return table
