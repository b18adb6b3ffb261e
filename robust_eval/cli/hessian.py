"""``robust-eval hessian``."""

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


def hessian(
    checkpoints: Checkpoints,
    count: Annotated[int, typer.Option(help="How many eigenvalues, by size.")] = 5,
    tolerance: Annotated[float, typer.Option(help="Relative change at which an eigenvalue is done.")] = 1e-3,
    iterations: Annotated[int, typer.Option(help="Hessian-vector products per eigenvalue, at most.")] = 50,
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
    """The largest Hessian eigenvalues of the adversarial loss: how sharp a minimum is (Liu et al. 2020).

    Adversarial images are made once at each checkpoint's weights; the Hessian is that of the mean loss on
    them with respect to all parameters. Negative eigenvalues keep their sign.
    """
    from rich.table import Table

    from robust_eval.core import figure_style, terminal
    from robust_eval.core.errors import UserError
    from robust_eval.landscape.liu import hessian_spectrum, measurement

    measurement.checked_count("--count", count)
    measurement.checked_count("--iterations", iterations)
    if not 0 < tolerance < 1:
        raise UserError(f"--tolerance must lie between 0 and 1, got {tolerance:g}.")
    made = set_up(
        hessian_spectrum.KIND,
        hessian_spectrum.VERSION,
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
        found = hessian_spectrum.measure(
            made,
            count,
            folder,
            tolerance=tolerance,
            iterations=iterations,
            told=lambda one: status.update(f"{one.label}: eigenvalue {one.rank} of {count}"),
        )
    table = Table(title="Hessian eigenvalues by size", title_justify="left", pad_edge=False)
    heads = ["checkpoint", "rank", "eigenvalue", "residual", "products"]
    if not all(one.converged for one in found):
        heads.append("")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if 0 < place < 5 else "left")
    for one in found:
        done = "" if one.converged else "not converged: more --iterations"
        cells = (
            one.label,
            str(one.rank),
            f"{one.value:.5g}",
            f"{one.residual:.2g}",
            str(one.iterations),
            done,
        )
        table.add_row(*cells[: len(heads)])
    table.caption = "An eigenvalue lies within the residual of each figure."
    console.print(table)
    facts = hessian_spectrum.to_data(found, made, tolerance, iterations)
    written(
        console, figure_style.save(hessian_spectrum.draw(found, made), folder / hessian_spectrum.KIND, facts)
    )
