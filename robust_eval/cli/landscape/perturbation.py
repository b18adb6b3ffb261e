"""``robust-eval landscape perturbation``: measure the adversarial loss under weight perturbations."""

from __future__ import annotations

from dataclasses import dataclass

from robust_eval.cli.landscape.frame import load_checkpoints, new_table, write_figure
from robust_eval.cli.landscape.options import (
    LANDSCAPE,
    Checkpoints,
    DirectionOptions,
    OutputOptions,
    ScanAttackOptions,
    TrainingDataOptions,
)
from robust_eval.core.command_options import expand_options, option
from robust_eval.evaluation.planning.options import ATTACK, ModelOptions, ThreatOptions


@dataclass(frozen=True, kw_only=True)
class PerturbationOptions(DirectionOptions):
    """Which weight perturbations are measured."""

    kinds: str = option("awp,rwp", "Kinds of perturbations: awp, rwp or awp,rwp.", panel=LANDSCAPE)
    # From the size at which AWP has an effect (Wu et al. 2020, Figure 2b) to that of RWP (Figure 3c).
    gammas: str = option(
        "1e-4,1e-3,2.5e-3,5e-3,1e-2,2e-2,1e-1,3e-1,6e-1,1,2",
        "Sizes relative to each layer's weights, separated by commas.",
        panel=LANDSCAPE,
    )
    directions: int = option(5, "Number of random draws for rwp.", panel=LANDSCAPE)


@dataclass(frozen=True, kw_only=True)
class PerturbationAttackOptions(ScanAttackOptions):
    """PGD on the batches whose loss AWP increases."""

    batch_size: int | None = option(
        128, "Images per batch, also the batch of AWP's gradient; 128 as in training.", panel=ATTACK
    )


@expand_options
def perturbation(
    checkpoints: Checkpoints,
    perturbations: PerturbationOptions,
    data: TrainingDataOptions,
    threat: ThreatOptions,
    attack: PerturbationAttackOptions,
    model: ModelOptions,
    output: OutputOptions,
) -> None:
    """Measure the adversarial loss under weight perturbations of growing size (Wu et al. 2020, Figure 3a).

    awp follows the gradient of each batch, rwp a random direction; both have the norm gamma |w| in every
    layer. The loss is measured on images made at w and on images made anew at w+v.
    """
    from robust_eval.cli.landscape.scan import loss_text, measure_scan
    from robust_eval.core import terminal
    from robust_eval.landscape.awp.figures import perturbation_figure
    from robust_eval.landscape.awp.scan import make_scan, parse_gammas
    from robust_eval.landscape.awp.weight_noise import (
        KIND,
        parse_kinds,
        perturbation_curves,
        plan,
        to_data,
    )
    from robust_eval.landscape.option_checks import require_at_least

    console = terminal.console()
    kinds, gammas = parse_kinds(perturbations.kinds), parse_gammas(perturbations.gammas)
    require_at_least("--directions", perturbations.directions)
    comparison = load_checkpoints(checkpoints, data, threat, model, output)
    scan = make_scan(
        comparison,
        directions=perturbations.directions,
        direction_file=perturbations.direction_file,
        **vars(attack),
    )
    wanted = plan(kinds, gammas, perturbations.directions)
    losses, folder = measure_scan(console, scan, wanted, output.out)
    curves = perturbation_curves(scan, kinds, gammas, losses)
    heads = [f"{one.label} {one.kind.upper()}, {one.images}" for one in curves]
    table = new_table("Adversarial loss (nats) at w+v; images made at w, or anew at w+v", "gamma", *heads)
    for index, gamma in enumerate(gammas):
        table.add_row(f"{gamma:g}", *(loss_text(float(one.mean[index])) for one in curves))
    console.print(table)
    write_figure(console, perturbation_figure(scan, curves), folder / KIND, to_data(scan, curves, losses))
