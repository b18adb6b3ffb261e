"""``robust-eval landscape scattering``: compare perturbations and gradients of neighbouring weights."""

from __future__ import annotations

from dataclasses import dataclass

from robust_eval.cli.landscape.frame import load_checkpoints, new_table, run_folder, write_figure
from robust_eval.cli.landscape.options import (
    LANDSCAPE,
    AttackOptions,
    Checkpoints,
    OutputOptions,
    TrainingDataOptions,
)
from robust_eval.core.command_options import expand_options, option
from robust_eval.evaluation.planning.options import ModelOptions, ThreatOptions


@dataclass(frozen=True, kw_only=True)
class NeighbourOptions:
    """The neighbouring weights, and the values of epsilon at which they are compared."""

    epsilons: str = option(
        "0,1/4,1/2,3/4,1,3/2,2",
        "Values of epsilon as multiples of --eps, separated by commas.",
        flags=("--epsilons", "--budgets"),
        panel=LANDSCAPE,
    )
    radius: str = option(
        "0.05", "Distance of the neighbouring weights, relative to each filter's norm.", panel=LANDSCAPE
    )
    neighbours: int = option(3, "Number of random neighbours of each checkpoint.", panel=LANDSCAPE)


@expand_options
def scattering(
    checkpoints: Checkpoints,
    neighbourhood: NeighbourOptions,
    data: TrainingDataOptions,
    threat: ThreatOptions,
    attack: AttackOptions,
    model: ModelOptions,
    output: OutputOptions,
) -> None:
    """Measure gradient scattering: cosines between neighbouring weights as epsilon grows (Liu et al. 2020).

    Prints the mean cosine similarity over all pairs of the checkpoint's weights and random weights near them:
    of the perturbations that PGD finds, and of the parameter gradients of the adversarial loss. Low cosines
    mean scattered gradients.
    """
    from robust_eval.core import terminal
    from robust_eval.landscape.liu.gradient_scattering import (
        KIND,
        VERSION,
        measure,
        parse_radius,
        parse_ratios,
        scattering_figure,
        to_data,
    )
    from robust_eval.landscape.liu.measurement import make_measurement
    from robust_eval.landscape.option_checks import require_at_least

    ratios, radius = parse_ratios(neighbourhood.epsilons), parse_radius(neighbourhood.radius)
    neighbours = neighbourhood.neighbours
    require_at_least("--neighbours", neighbours)
    comparison = load_checkpoints(checkpoints, data, threat, model, output)
    measurement = make_measurement(KIND, VERSION, comparison, **vars(attack))
    console = terminal.console()
    with run_folder(console, measurement, output.out) as folder, console.status("") as status:
        similarities = measure(
            measurement,
            ratios,
            radius,
            neighbours,
            folder,
            on_result=lambda one: status.update(f"{one.label}: epsilon {one.eps:g}"),
        )
    table = new_table(
        "Mean cosine between neighbouring weights",
        *(
            "checkpoint",
            "epsilon",
            "perturbation",
            "its sign",
            "gradient at w",
            "at each point",
            "all images",
        ),
    )
    for one in similarities:
        cosines = (
            one.perturbation,
            one.perturbation_sign,
            one.batch_gradient_at_w,
            one.batch_gradient,
            one.gradient,
        )
        cells = ("" if cosine is None else f"{cosine:.4f}" for cosine in cosines)
        table.add_row(one.label, f"{one.eps:.4g}", *cells)
    console.print(table)
    facts = to_data(similarities, measurement, radius, neighbours)
    write_figure(console, scattering_figure(similarities, measurement), folder / KIND, facts)
