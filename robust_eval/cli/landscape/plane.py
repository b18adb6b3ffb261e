"""``robust-eval landscape plane``: measure the adversarial loss over a plane of two random directions."""

from __future__ import annotations

from dataclasses import dataclass

from robust_eval.cli.landscape.frame import load_checkpoints, new_table, write_figure
from robust_eval.cli.landscape.options import (
    LANDSCAPE,
    Checkpoints,
    GridOptions,
    OutputOptions,
    ScanAttackOptions,
    TrainingDataOptions,
)
from robust_eval.core.command_options import expand_options, option
from robust_eval.evaluation.planning.options import ModelOptions, ThreatOptions


@dataclass(frozen=True, kw_only=True)
class PlaneGridOptions(GridOptions):
    """The grid over the first two directions."""

    directions: int = option(2, "Number of random directions; the plane uses the first two.", panel=LANDSCAPE)
    points: int = option(11, "Number of alphas per axis, odd.", panel=LANDSCAPE)


@expand_options
def plane(
    checkpoints: Checkpoints,
    grid: PlaneGridOptions,
    data: TrainingDataOptions,
    threat: ThreatOptions,
    attack: ScanAttackOptions,
    model: ModelOptions,
    output: OutputOptions,
) -> None:
    """Measure |g(a, b) - g(0, 0)| over a plane of two random directions (Wu et al. 2020, Appendix B.2).

    Writes surface and contour plots (PNG, SVG) and their data (JSON). Adversarial images are made anew at
    every point. Points on the axes are shared with `curve` in the same folder.
    """
    from robust_eval.cli.landscape.scan import loss_text, measure_scan
    from robust_eval.core import terminal
    from robust_eval.landscape.awp.figures import plane_figure
    from robust_eval.landscape.awp.plane import KIND, plan, planes, to_data
    from robust_eval.landscape.awp.scan import make_scan, parse_alphas
    from robust_eval.landscape.option_checks import require_at_least

    console = terminal.console()
    alphas = parse_alphas(grid.span, grid.points)
    require_at_least("--directions", grid.directions, 2)
    comparison = load_checkpoints(checkpoints, data, threat, model, output)
    scan = make_scan(
        comparison, directions=grid.directions, direction_file=grid.direction_file, **vars(attack)
    )
    losses, folder = measure_scan(console, scan, plan(alphas), output.out)
    measured = planes(scan, alphas, losses)
    table = new_table("Flatness over the plane", "checkpoint", "g(0, 0)", "mean |g - g(0, 0)|", "not finite")
    for one in measured:
        table.add_row(one.label, f"{one.at_w:.4f}", loss_text(one.sharpness), str(len(one.not_finite())))
    console.print(table)
    write_figure(console, plane_figure(scan, measured), folder / KIND, to_data(scan, measured, losses))
