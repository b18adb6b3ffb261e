"""``robust-eval connectivity``."""

from __future__ import annotations

from typing import Annotated

import typer

from robust_eval.cli.landscape_options import (
    BatchSize,
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


def connectivity(
    a: Annotated[str, typer.Argument(help="The checkpoint at t = 0.", show_default=False)],
    b: Annotated[str, typer.Argument(help="The checkpoint at t = 1.", show_default=False)],
    points: Annotated[int, typer.Option(help="Points on the line, the ends included.")] = 21,
    interpolate_statistics: Annotated[
        bool,
        typer.Option(
            "--interpolate-statistics",
            help="Interpolate BatchNorm's running statistics; without it they are taken anew at every point.",
        ),
    ] = False,
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
    """The adversarial loss along the line between two checkpoints, and the barrier between them.

    Adversarial images are made anew at every point (Liu et al. 2020).
    """
    from robust_eval.core import figure_style, terminal
    from robust_eval.landscape.liu import connectivity as measuring

    ts = measuring.grid(points)
    made = set_up(
        measuring.KIND,
        measuring.VERSION,
        [a, b],
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
    first = made.subjects.each[0].model
    recompute = measuring.has_batchnorm(first) and not interpolate_statistics
    with resumable(console, folder), console.status("") as status:
        found = measuring.measure(
            made, ts, folder, recompute=recompute, told=lambda one: status.update(f"t = {one.t:.2f}")
        )
    for one in found:
        loss = "not finite" if one.loss is None else f"{one.loss:8.4f}"
        console.print(
            f"  t {one.t:4.2f}  loss {loss}  robust {100 * one.robust:5.1f}%  clean {100 * one.clean:5.1f}%",
            highlight=False,
        )
    height = measuring.barrier(found)
    console.print(
        "The loss is not finite somewhere on the line, so there is no barrier to state."
        if height is None
        else f"Barrier {height:.4f} nats above the line between the ends; the checkpoints are "
        f"{measuring.distance(*made.subjects.each):.4g} apart (L2, all parameters).",
        highlight=False,
        soft_wrap=True,
    )
    facts = measuring.to_data(found, made, recompute=recompute)
    written(console, figure_style.save(measuring.draw(found, made), folder / measuring.KIND, facts))
