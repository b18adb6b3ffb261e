"""``robust-eval scattering``."""

from __future__ import annotations

from typing import Annotated

import typer

from robust_eval.cli.landscape_options import (
    BatchSize,
    Checkpoints,
    Examples,
    Names,
    Out,
    Seed,
    Split,
    Steps,
    introduce,
    resumable,
    set_up,
    written,
)
from robust_eval.cli.options import Arch, Data, DataRoot, Device, Eps, Norm, Normalisation


def scattering(
    checkpoints: Checkpoints,
    budgets: Annotated[
        str, typer.Option(help="Budgets in units of epsilon, separated by commas.")
    ] = "0,1/4,1/2,3/4,1,3/2,2",
    radius: Annotated[
        str, typer.Option(help="How far the neighbouring weights are, relative to each filter's norm.")
    ] = "0.05",
    neighbours: Annotated[int, typer.Option(help="Random neighbours of each checkpoint.")] = 3,
    data: Data = None,
    data_root: DataRoot = None,
    split: Split = "train",
    examples: Examples = None,
    norm: Norm = None,
    eps: Eps = None,
    steps: Steps = 10,
    arch: Arch = None,
    normalisation: Normalisation = None,
    device: Device = "auto",
    batch_size: BatchSize = None,
    seed: Seed = 0,
    names: Names = None,
    out: Out = None,
) -> None:
    """Do neighbouring weights meet the same perturbations and the same gradients as epsilon grows?

    Cosine similarities between a checkpoint and weights close to it (Liu et al. 2020): of the perturbations
    that PGD finds at each, and of the parameter gradients there. Low cosines are scattered gradients.
    """
    from rich.table import Table

    from robust_eval.core import figure_style, terminal
    from robust_eval.landscape.liu import gradient_scattering, measurement

    wanted, distance = gradient_scattering.ratios(budgets), gradient_scattering.radius(radius)
    measurement.checked_count("--neighbours", neighbours)
    made = set_up(
        gradient_scattering.KIND,
        gradient_scattering.VERSION,
        checkpoints,
        data=data,
        data_root=data_root,
        split=split,
        examples=examples,
        norm=norm,
        eps=eps,
        steps=steps,
        arch=arch,
        normalisation=normalisation,
        device=device,
        batch_size=batch_size,
        seed=seed,
        names=names,
    )
    console, folder = terminal.console(), out or made.default_folder()
    introduce(console, made, folder)
    with resumable(console, folder), console.status("") as status:
        found = gradient_scattering.measure(
            made,
            wanted,
            distance,
            neighbours,
            folder,
            told=lambda one: status.update(f"{one.label}: epsilon {one.eps:g}"),
        )
    table = Table(title="Mean cosine between neighbouring weights", title_justify="left", pad_edge=False)
    for place, head in enumerate(
        ("checkpoint", "epsilon", "perturbation", "its sign", "gradient at w", "at each point", "all images")
    ):
        table.add_column(head, justify="right" if place else "left")
    for one in found:
        cosines = (
            one.perturbation,
            one.perturbation_sign,
            one.batch_gradient_at_w,
            one.batch_gradient,
            one.gradient,
        )
        table.add_row(
            one.label, f"{one.eps:.4g}", *("" if value is None else f"{value:.4f}" for value in cosines)
        )
    console.print(table)
    facts = gradient_scattering.to_data(found, made, distance, neighbours)
    written(
        console,
        figure_style.save(gradient_scattering.draw(found, made), folder / gradient_scattering.KIND, facts),
    )
